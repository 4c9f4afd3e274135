"""Requests that are refused, given up, slow, endless or too many get one clear message; the others are answered."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from rm_experiments.scoring.model import OpenedModel, RewardModel
from rm_experiments.serving.listening import allow_files
from rm_experiments.serving.requests import (
    PairsRequest,
    PoolingRequest,
    RemoteRewardRequest,
    RerankRequest,
    ScoreRequest,
)
from tests.serving.running import Server, Slow, running, together, until

ROW = {"prompt": "What is 2+2?", "response": "4."}
BUSY = {"prompt": "held", "response": "up"}


@pytest.fixture(scope="module")
def server(saved: tuple[OpenedModel, RewardModel]) -> Any:
    from rm_experiments.config.serve_schema import LimitsConfig, ServeConfig

    limits = LimitsConfig(body_bytes=20_000, answers=4, request_tokens=150, read_seconds=0.4)
    with running(ServeConfig(checkpoint="x", limits=limits), {"tiny": saved}) as started:
        yield started


@pytest.fixture(autouse=True)
def others_are_answered(request: pytest.FixtureRequest) -> Any:
    """After whatever was sent, a good request gets its reward."""
    yield
    if "server" in request.fixturenames:
        server = request.getfixturevalue("server")
        found = server.post("/score", ROW)
        assert found.status == 200
        assert isinstance(found.body["reward"], float)


REFUSED: dict[str, tuple[str, Any, int, str]] = {
    "no JSON": ("/score", b'{"prompt": ', 400, "the body is no JSON: "),
    "no body": ("/score", b"", 422, "Field required"),
    "too deep": ("/score", b'{"tools":' + b"[" * 9000 + b"]" * 9000 + b"}", 0, ""),
    "not UTF-8": ("/score", b'{"response": "\xff"}', 400, ""),
    "not an object": ("/score", [1], 422, "Input should be a valid dictionary or object"),
    "no answer": ("/score", {"prompt": "a"}, 422,
                  "give one of response, responses, messages, or chosen and rejected"),
    "two kinds": ("/score", {**ROW, "responses": ["a"]}, 422,
                  "give one of response, responses, messages, or chosen and rejected"),
    "half a pair": ("/score", {"chosen": "a"}, 422, "give one of response, responses, messages, or chosen"),
    "a row without an answer": ("/score", {"rows": [ROW, {"prompt": "a"}]}, 422, "rows[1]: give one of response"),
    "a row and rows": ("/score", {"rows": [ROW], "prompt": "a"}, 422, "give rows, or one row, not both"),
    "a misspelt key": ("/score", {**ROW, "sytem": "x"}, 422, "sytem: Extra inputs are not permitted"),
    "a number": ("/score", {"prompt": 5, "response": "a"}, 422, "prompt"),
    "an unknown role": ("/score", {"messages": [{"role": "boss", "content": "a"}]}, 422,
                        "the row: messages[0].role is the text 'boss'; allowed are system, developer, user"),
    "a lone surrogate": ("/score", b'{"response": "\\ud800"}', 422, "response"),
    "a NUL": ("/score", {"rows": [ROW, {"response": "a\0b"}]}, 422,
              "rows[1]: column 'response' has a NUL character at character 2"),
    "one row of several": ("/score", {"rows": [{"response": "a\0b"}]}, 422, "rows[0]: column 'response' has a NUL"),
    "no answers": ("/score", {"responses": []}, 422, "the row: column 'responses' is an empty list"),
    "too many answers": ("/score", {"responses": list("abcde")}, 422, "5 answers are more than limits.answers=4"),
    "too many rows": ("/score", {"rows": [ROW] * 5}, 422, "5 answers are more than limits.answers=4"),
    "too many tokens": ("/score", {"responses": [f"{one} " * 60 for one in "abcd"]}, 422,
                        "tokens are more than limits.request_tokens=150; send several requests"),
    "a wrong token id": ("/pooling", {"input": [1, 999_999]}, 422, "text 0: token ids must be from 0 to "),
    "a negative token id": ("/pooling", {"input": [[1], [-1]]}, 422, "text 1: token ids must be from 0 to "),
    "too many token ids": ("/pooling", {"input": [1] * 101}, 422, "text 0: 101 tokens exceed data.max_length=100"),
    "no token ids": ("/pooling", {"input": [[]]}, 422, "text 0: has no token ids"),
    "input and messages": ("/pooling", {"input": "a", "messages": []}, 422, "give input or messages"),
    "tools beside input": ("/pooling", {"input": "a", "tools": []}, 422, "tools and chat_template_kwargs go with"),
    "base64": ("/pooling", {"input": "a", "encoding_format": "base64"}, 422, "encoding_format: Input should be"),
    "prompts that are too few": ("/get_reward", {"query": ["a", "b"], "prompts": ["a"]}, 422,
                                 "prompts has 1 items and query 2; give one to each"),
    "answers that do not pair": ("/v1/score", {"text_1": ["a", "b"], "text_2": ["a"]}, 422,
                                 "2 prompts for 1 answers; give one, or one to each"),
    "an unknown model": ("/rerank", {"query": "a", "documents": ["b"], "model": "x"}, 404, "model 'x' is not served"),
    "an unknown route": ("/nowhere", {}, 404, "there is no /nowhere; /docs lists all routes"),
    "another method": ("/health", {}, 405, "/health is not called by POST"),
    "a body that is too large": ("/score", {"response": "a" * 20_000}, 413,
                                 "the body is larger than limits.body_bytes=20000"),
}  # fmt: skip


@pytest.mark.parametrize(("path", "body", "status", "message"), REFUSED.values(), ids=REFUSED)
def test_a_wrong_request_gets_one_message(server: Server, path: str, body: Any, status: int, message: str) -> None:
    found = server.post(path, body)
    assert found.status == status or (not status and found.status in (400, 422))
    error = found.body["error"]
    assert message in error["message"]
    assert error["code"] == found.status
    assert "\n" not in error["message"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/score", {"prompt": "a" * 1500, "responses": ["b"] * 8}),
        ("/score", {"rows": [ROW, {"prompt": [{"role": "user", "content": "a" * 1500}], "responses": ["b"] * 8}]}),
        ("/score", {"tools": [{"name": "a" * 1500}], "responses": ["b"] * 8}),
        ("/v1/score", {"text_1": "a" * 1500, "text_2": ["b"] * 8}),
        ("/rerank", {"query": "a" * 1500, "documents": ["b"] * 8}),
    ],
)
def test_a_prompt_is_not_rendered_with_as_many_answers_as_memory_holds(
    serve: Callable[..., Server], path: str, body: Any
) -> None:
    server = serve(limits={"body_bytes": 2000})
    found = server.post(path, body)
    assert found.status == 422
    assert "the prompts, each with every answer, have 12" in found.body["error"]["message"]
    assert "characters, more than 4 times limits.body_bytes, 8000; send" in found.body["error"]["message"]
    assert server.post(path, json.loads(json.dumps(body).replace("a" * 1500, "a" * 700))).status == 200


TWENTY_THOUSAND = 20_000


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (RemoteRewardRequest, {"query": [1] * TWENTY_THOUSAND}),
        (RemoteRewardRequest, {"query": [], "prompts": [None] * TWENTY_THOUSAND}),
        (PoolingRequest, {"input": [*([[]] * TWENTY_THOUSAND), None]}),
        (PoolingRequest, {"input": [[None] * TWENTY_THOUSAND]}),
        (PoolingRequest, {"messages": [{}] * TWENTY_THOUSAND}),
        (PairsRequest, {"text_1": [1] * TWENTY_THOUSAND, "text_2": [1] * TWENTY_THOUSAND}),
        (RerankRequest, {"query": "a", "documents": [{}] * TWENTY_THOUSAND}),
        (RerankRequest, {"query": "a", "documents": [], **{f"k{one}": 1 for one in range(TWENTY_THOUSAND)}}),
        (ScoreRequest, {"rows": [{"no": 1}] * TWENTY_THOUSAND}),
        (ScoreRequest, {"responses": [[{}] * 100] * 200}),
        (ScoreRequest, {"tools": ["a"] * TWENTY_THOUSAND, "response": "a"}),
        (ScoreRequest, {f"k{one}": 1 for one in range(TWENTY_THOUSAND)}),
    ],
)
def test_a_large_wrong_body_has_few_errors(kind: type[BaseModel], body: Any) -> None:
    with pytest.raises(ValidationError) as found:
        kind.model_validate(body)
    assert found.value.error_count() <= 4


def test_a_body_must_say_that_it_is_json(server: Server) -> None:
    found = server.call("POST", "/score", json.dumps(ROW).encode(), {"Content-Type": "text/plain"})
    assert found.status == 415
    assert "Content-Type: application/json" in found.body["error"]["message"]
    assert server.post("/score", ROW, Content_Type="application/json; charset=utf-8").status == 200


def test_an_endless_body_is_given_up(server: Server) -> None:
    with server.socket() as client:
        client.sendall(b"POST /score HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
                       b"Transfer-Encoding: chunked\r\n\r\n")  # fmt: skip
        chunk = b"4000\r\n" + b"a" * 0x4000 + b"\r\n"
        sent = 0
        try:
            while sent < 200:
                client.sendall(chunk)
                sent += 1
            answer = client.recv(65536)
        except OSError:
            return  # Hung up on, after much more than a body may have.
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b"connection: close" in answer.lower()
    assert server.gate._held == 0


def test_a_client_that_asks_first_is_spared_the_body(server: Server) -> None:
    with server.socket() as client:
        client.sendall(b"POST /score HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
                       b"Content-Length: 50000\r\nExpect: 100-continue\r\n\r\n")  # fmt: skip
        assert client.recv(65536).startswith(b"HTTP/1.1 413 ")


def test_slow_clients_are_hung_up_on(server: Server) -> None:
    with server.socket() as body, server.socket() as head, server.socket() as silent:
        body.sendall(b"POST /score HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
                     b"Content-Length: 100\r\n\r\n{")  # fmt: skip
        head.sendall(b"POST /score HTT")
        assert server.post("/score", ROW).status == 200
        answer = b""
        while more := body.recv(65536):
            answer += more
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"limits.read_seconds=0.4" in answer
        assert head.recv(65536) == b""
        assert silent.recv(65536) == b""
    until(lambda: server.gate.open == 0)


def test_a_client_that_does_not_read_its_answer_is_hung_up_on(serve: Callable[..., Server]) -> None:
    server = serve(limits={"answer_seconds": 1.0, "body_bytes": 20_000_000})
    # The answer, which has the id in it, is more than the system's buffers hold.
    body = json.dumps({**ROW, "id": "a" * 16_000_000}).encode()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(server.address)
        client.sendall(b"POST /score HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                       b"Content-Length: " + str(len(body)).encode() + b"\r\n\r\n" + body)  # fmt: skip
        until(lambda: server.metric('rm_serve_requests_total{route="/score",status="200"}') == 1)
        until(lambda: not server.uvicorn.server_state.connections)


def test_what_is_no_http_is_refused(server: Server) -> None:
    with server.socket() as client:
        client.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 400 ")


def test_a_connection_may_bring_several_requests(server: Server) -> None:
    body = json.dumps(ROW).encode()
    request = (b"POST /score HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: "
               + str(len(body)).encode() + b"\r\n\r\n" + body)  # fmt: skip
    with server.socket() as client:
        answers = b""
        client.sendall(request + request)
        while answers.count(b'"reward"') < 2:
            answers += client.recv(65536)
        assert answers.count(b"HTTP/1.1 200 OK") == 2


def test_a_token_is_asked_for(saved: Any, serve: Callable[..., Server]) -> None:
    server = serve(token="s3cret-token")
    for given in ({}, {"Authorization": "Bearer s3cret-toke"}, {"Authorization": "Basic s3cret-token"},
                  {"Authorization": "s3cret-token"}, {"Authorization": "Bearer \xe9"}):  # fmt: skip
        for found in (server.post("/score", ROW, **given), server.get("/metrics", **given),
                      server.get("/v1/models", **given), server.get("/nowhere", **given)):  # fmt: skip
            assert found.status == 401
            assert found.headers["www-authenticate"] == "Bearer"
            assert "Authorization: Bearer TOKEN" in found.body["error"]["message"]
    for path in ("/", "/health", "/ready", "/docs", "/openapi.json"):
        assert server.get(path).status == 200
    assert server.post("/score", ROW, Authorization="Bearer s3cret-token").status == 200
    assert server.get("/metrics", Authorization="bearer s3cret-token").status == 200
    document = server.get("/openapi.json").body
    assert document["paths"]["/score"]["post"]["security"] == [{"token": []}]
    assert "security" not in document["paths"]["/health"]["get"]


def test_a_full_queue_says_when_to_come_again(serve: Callable[..., Server], slow: Slow) -> None:
    server = serve(limits={"queue_requests": 2})
    slow.free.clear()
    with together(3) as submit:
        held = [submit(server.post, "/score", BUSY) for _ in range(2)]
        until(lambda: server.service.batcher.waiting[0] == 2)
        refused = server.post("/score", ROW)
        assert (refused.status, int(refused.headers["retry-after"])) == (429, 1)
        assert refused.body["error"]["type"] == "queue_full"
        assert server.metric("rm_serve_queue_requests") == 2
        slow.free.set()
        assert [one.result().status for one in held] == [200, 200]
    assert server.post("/score", ROW).status == 200


def test_a_request_whose_time_is_over_is_dropped(serve: Callable[..., Server], slow: Slow) -> None:
    server = serve(limits={"answer_seconds": 0.3})
    slow.free.clear()
    with together(2) as submit:
        first = submit(server.post, "/score", BUSY)
        assert slow.begun.acquire(timeout=20)
        second = server.post("/score", ROW)
        assert second.status == 504
        assert "limits.answer_seconds=0.3" in second.body["error"]["message"]
        assert first.result().status == 504
        assert server.service.batcher.waiting == (0, 0)
    slow.free.set()
    assert server.post("/score", ROW).status == 200
    # The second was never computed.
    assert slow.passes == [1, 1]


def test_the_work_of_a_client_that_is_gone_is_dropped(serve: Callable[..., Server], slow: Slow) -> None:
    server = serve()
    slow.free.clear()
    with together(2) as submit:
        first = submit(server.post, "/score", BUSY)
        assert slow.begun.acquire(timeout=20)
        body = json.dumps({"responses": ["a", "b", "c"]}).encode()
        with server.socket() as client:
            client.sendall(b"POST /score HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: "
                           + str(len(body)).encode() + b"\r\n\r\n" + body)  # fmt: skip
            until(lambda: server.service.batcher.waiting[0] == 2)
        until(lambda: server.service.batcher.waiting[0] == 1)
        slow.free.set()
        assert first.result().status == 200
    assert slow.passes == [1]
    assert server.metric('rm_serve_requests_total{route="/score",status="499"}') == 1


def test_requests_are_batched_and_counted(serve: Callable[..., Server], slow: Slow) -> None:
    server = serve(batch={"target_ms": 60_000.0})
    slow.free.clear()
    with together(9) as submit:
        asked = [submit(server.post, "/score", BUSY)]
        assert slow.begun.acquire(timeout=20)
        asked += [submit(server.post, "/score", {**ROW, "response": str(number)}) for number in range(8)]
        until(lambda: server.service.batcher.waiting[0] == 9)
        slow.free.set()
        assert [one.result().status for one in asked] == [200] * 9
    # One pass for the eight that came while the first was computed.
    assert slow.passes == [1, 8]
    assert server.metric('rm_serve_requests_total{route="/score",status="200"}') == 9
    assert server.metric('rm_serve_batch_requests_sum{model="tiny"}') == 9
    assert server.metric('rm_serve_batch_requests_count{model="tiny"}') == 2
    assert server.metric('rm_serve_answers_total{model="tiny"}') == 9
    assert server.metric('rm_serve_request_seconds_count{route="/score"}') == 9
    server.get("/nowhere")
    server.get("/elsewhere")
    assert server.metric('rm_serve_requests_total{route="other",status="404"}') == 2


def test_while_the_server_ends_what_was_accepted_is_answered_and_new_requests_are_told(
    serve: Callable[..., Server], slow: Slow
) -> None:
    server = serve()
    assert server.get("/ready").body == {"status": "ready"}
    slow.free.clear()
    with together(4) as submit:
        accepted = [submit(server.post, "/score", BUSY) for _ in range(4)]
        until(lambda: server.service.batcher.waiting[0] == 4)
        server.stop.signal_number = signal.SIGTERM
        until(lambda: server.gate.draining)
        late = server.post("/score", ROW)
        assert (late.status, late.headers["connection"]) == (503, "close")
        assert "the server is ending" in late.body["error"]["message"]
        assert server.get("/ready").status == 503
        assert server.get("/health").status == 200
        slow.free.set()
        for one in accepted:
            assert one.result().status == 200
            assert isinstance(one.result().body["reward"], float)

    def closed() -> bool:
        try:
            server.socket().close()
        except OSError:
            return True
        return False

    until(closed)


def test_a_server_whose_batches_stopped_is_not_ready(serve: Callable[..., Server]) -> None:
    server = serve()
    server.service.batcher.close()
    found = server.get("/ready")
    assert (found.status, found.body["error"]["message"]) == (503, "batches are not computed any more")
    assert server.get("/health").status == 503
    assert server.post("/score", ROW).status == 503


def test_a_model_that_always_fails_is_not_ready_until_it_computes_again(
    serve: Callable[..., Server], slow: Slow
) -> None:
    def failing(encoded: Any, scores: Any) -> Any:
        raise RuntimeError("the device is lost")

    server = serve()
    slow.spoil = failing
    for _ in range(3):
        assert server.get("/ready").status == 200
        assert server.post("/score", ROW).status == 500
    found = server.get("/ready")
    assert (found.status, found.body["error"]["message"]) == (
        503, "model tiny fails on every request; the server's log says why",
    )  # fmt: skip
    assert server.get("/health").status == 200
    slow.spoil = lambda encoded, scores: scores
    assert server.get("/ready").status == 200


def test_without_a_token_only_names_of_this_machine_are_answered(serve: Callable[..., Server]) -> None:
    server = serve(only_local=True)
    for host in ("localhost", "LOCALHOST:8000", "127.0.0.1:1", "127.0.0.2", "[::1]", "[::1]:8000"):
        assert server.post("/score", ROW, Host=host).status == 200
    for host in ("evil.example", "evil.example:8000", "localhost.evil.example", "10.0.0.1", "[::2]:1", ""):
        for found in (server.post("/score", ROW, Host=host), server.get("/health", Host=host)):
            assert found.status == 403
            assert "RM_SERVE_TOKEN" in found.body["error"]["message"]
    protected = serve(only_local=True, token="s3cret-token")
    assert protected.post("/score", ROW, Host="a.proxy", Authorization="Bearer s3cret-token").status == 200
    assert serve().post("/score", ROW, Host="a.name").status == 200


def test_too_many_connections_are_told_in_json(serve: Callable[..., Server]) -> None:
    server = serve(limits={"connections": 2})
    with server.socket(), server.socket():
        until(lambda: len(server.gate.connections) == 2)
        found = server.post("/score", ROW)
        assert (found.status, found.headers["retry-after"]) == (503, "1")
        assert found.body["error"]["message"] == "more connections than limits.connections=2"
        assert server.get("/health").status == 200
    until(lambda: not server.gate.connections)
    assert server.post("/score", ROW).status == 200


def test_the_limit_of_open_files_is_raised_as_far_as_allowed() -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (300, before[1]))
        allow_files(100)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (612, before[1])
        allow_files(50)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (612, before[1])
        allow_files(10**9)
        assert 612 <= resource.getrlimit(resource.RLIMIT_NOFILE)[0] <= max(before[1], 612)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_what_is_got_may_be_asked_for_without_its_body(server: Server) -> None:
    for path in ("/", "/health", "/ready", "/metrics"):
        found = server.call("HEAD", path)
        assert (found.status, found.body) == (200, "")
        assert found.headers["content-length"] != "0"
    assert server.call("HEAD", "/score").status == 405
    assert server.post("/score/", ROW).status == 404


def test_the_pages_load_nothing_from_elsewhere(server: Server) -> None:
    for path in ("/", "/docs"):
        found = server.get(path)
        policy = found.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; ")
        assert "unsafe-inline" not in policy
        assert "http" not in found.body.replace("http-equiv", "").partition("</style>")[0]
        assert "src=" not in found.body
    listed = server.get("/docs").body
    for path in server.get("/openapi.json").body["paths"]:
        assert f" {path}</code>" in listed
