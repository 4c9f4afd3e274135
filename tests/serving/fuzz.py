"""Requests that nobody would think of, made from the server's own OpenAPI document, and bytes that are none."""

from __future__ import annotations

import json
import math
import random
import threading
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import GenerationMode

from rm_experiments.config.score_schema import RowKind, ScoreColumnsConfig
from rm_experiments.data.answers import Answers, EncodedAnswers
from rm_experiments.scoring.model import RewardModel, Scores
from rm_experiments.scoring.rows import columns_of, read_row
from rm_experiments.serving.requests import Row
from tests.serving.running import Server

EXACT = 1e-5
_SEEDS = (b'{"prompt": "What is 2+2?", "responses": ["4.", "5."]}', b'{"query": ["a", "b"], "prompts": ["a", "b"]}',
          b'{"input": [[1, 2, 3]]}', b'{"messages": [{"role": "user", "content": "Hi"}]}')  # fmt: skip

schemathesis.checks.load_all_checks()
_CHECKS = [
    schemathesis.checks.CHECKS.get_one(name)
    for name in (
        "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance",
    )
]  # fmt: skip


@dataclass
class Locked:
    """A model that the server and the test compute with in turn."""

    model: RewardModel
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def compute(self, encoded: Sequence[EncodedAnswers], **more: Any) -> list[Scores]:
        with self.lock:
            return self.model.compute(encoded, **more)

    def rewards(self, rows: Sequence[Answers]) -> list[float]:
        return [reward for one in self.compute(self.model.encode(rows)) for reward in one.rewards]  # type: ignore[arg-type]


@dataclass
class Outcome:
    """What was sent, and what came of it."""

    sent: Counter[tuple[str, int]] = field(default_factory=Counter)
    """Requests by route and status."""
    refused: Counter[str] = field(default_factory=Counter)
    """Messages to mended requests."""
    compared: int = 0
    """Rewards that were computed a second time."""
    problems: list[str] = field(default_factory=list)

    def table(self) -> str:
        """A line for each route."""
        routes = sorted({route for route, _ in self.sent})
        lines = []
        for route in routes:
            counts = {status: number for (one, status), number in sorted(self.sent.items()) if one == route}
            lines.append(f"{route:14} {sum(counts.values()):6}  " + "  ".join(f"{k}: {v}" for k, v in counts.items()))
        return "\n".join([*lines, f"{self.compared} rewards compared, {len(self.problems)} problems"])


def fuzz(
    server: Server, model: Locked, examples: int, number: int = 0, routes: Collection[str] | None = None
) -> Outcome:
    """Send `examples` requests of each kind to each route: that fit the schema; the same, mended where rules that no
    schema says are broken, so that most are answered; that do not fit. Then broken bytes."""
    outcome = Outcome()
    schema = schemathesis.openapi.from_url(f"http://{server.address[0]}:{server.address[1]}/openapi.json")
    for mode, mends in (
        (GenerationMode.POSITIVE, False),
        (GenerationMode.POSITIVE, True),
        (GenerationMode.NEGATIVE, False),
    ):
        for result in schema.get_all_operations():
            operation = result.ok()
            if routes is not None and operation.path not in routes:
                continue
            if operation.method.upper() == "POST" or not (mends or mode is GenerationMode.NEGATIVE):
                _send(operation, mode, mends, examples, number, server, model, outcome)
    _broken_bytes(server, examples * 4, number, outcome)
    return outcome


def _send(
    operation: Any, mode: GenerationMode, mends: bool, examples: int, number: int, server: Server, model: Locked,
    outcome: Outcome,
) -> None:  # fmt: skip
    @seed(number)
    @settings(
        max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )  # fmt: skip
    @given(case=operation.as_strategy(generation_mode=mode))
    def one(case: Any) -> None:
        if mends:
            case.body, case.query = mended(operation.path, case.body, len(model.tokenizer)), {}
        response = case.call(base_url=f"http://{server.address[0]}:{server.address[1]}")
        outcome.sent[operation.path, response.status_code] += 1
        if mends and response.status_code != 200:
            outcome.refused[response.json()["error"]["message"][:60]] += 1
        try:
            case.validate_response(
                response,
                checks=_CHECKS,
            )
            if response.status_code == 200 and operation.path in EXPECTED:
                found, wanted = EXPECTED[operation.path](case.body, response.json(), model)
                outcome.compared += len(wanted)
                assert len(found) == len(wanted), (found, wanted)
                assert all(abs(a - b) < EXACT for a, b in zip(found, wanted, strict=True)), (found, wanted)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            outcome.problems.append(f"{operation.path} {json.dumps(case.body, default=str)[:300]}: {str(error)[:500]}")

    one()


def mended(path: str, body: Any, vocabulary: int) -> Any:
    """The body without the contradictions that a schema cannot forbid."""
    body = {name: value for name, value in body.items() if name not in ("model", "chat_template_kwargs", "tools")}
    if path == "/score":
        rows = body.get("rows")
        return _mended_row(body) if rows is None else {"rows": [_mended_row(one) for one in rows]}
    if path == "/get_reward":
        return {name: value for name, value in body.items() if name != "prompts"}
    if path == "/v1/score":
        prompt = next((body[one] for one in ("text_1", "queries") if body.get(one)), "a")
        answers = next((body[one] for one in ("text_2", "documents") if body.get(one)), ["b"])
        return {
            "text_1": prompt[0] if isinstance(prompt, list) else prompt, "text_2": answers,
            "use_activation": body.get("use_activation"),
        }  # fmt: skip
    if path.endswith(("pooling", "classify")):
        if body.get("messages") and not body.get("input"):
            return {
                name: _turns(value) if name == "messages" else value for name, value in body.items() if name != "input"
            }
        kept = {name: value for name, value in body.items() if name != "messages"}
        return {**kept, "input": _ids(body.get("input") or body.get("user") or "a text", vocabulary)}
    return body


def _mended_row(row: Any) -> Any:
    row = {
        name: value
        for name, value in row.items()
        if value is not None and name not in ("rows", "tools", "chat_template_kwargs")
    }
    kinds = [("response",), ("responses",), ("messages",), ("chosen", "rejected")]
    kind = next((one for one in kinds if all(row.get(name) for name in one)), None)
    kept = {name: _words(row[name]) for name in ("prompt", "system") if row.get(name)}
    if kind is None:
        return {**kept, "response": "an answer"}
    if kind == ("responses",):
        return {**kept, "responses": [_words(one) for one in row["responses"]]}
    return {**kept, **{name: _words(row[name]) for name in kind}}


def _words(value: Any) -> Any:
    return _turns(value) if isinstance(value, list) else value.replace("\0", "")


def _turns(turns: Any) -> Any:
    said = [one.get("content") for one in turns] or ["a"]
    texts = [one.replace("\0", "") if isinstance(one, str) else "x" for one in said]
    return [{"role": ("user", "assistant")[number % 2], "content": one} for number, one in enumerate(texts)]


def _ids(given: Any, vocabulary: int) -> Any:
    if isinstance(given, list):
        return [_ids(one, vocabulary) for one in given] or "a"
    return int(given) % vocabulary if isinstance(given, int | float) else given


def _of_score(body: Any, answer: Any, model: Locked) -> tuple[list[float], list[float]]:
    rows = [Row(**one) for one in body["rows"]] if body.get("rows") is not None else [_row(body)]
    answers = answer["rows"] if body.get("rows") is not None else [answer]
    found = [one for each in answers for one in _rewards_of(each)]
    read = [read_row(row.values(), 0, "", RowKind.auto, columns_of(ScoreColumnsConfig()), "").answers for row in rows]
    return found, model.rewards(read)


def _row(body: Any) -> Row:
    return Row(**{name: value for name, value in body.items() if name not in ("model", "rows")})


def _rewards_of(answer: Any) -> list[float]:
    if "rewards" in answer:
        return list(answer["rewards"])
    return [answer["reward"]] if "reward" in answer else [answer["reward_chosen"], answer["reward_rejected"]]


def _of_pairs(body: Any, answer: Any, model: Locked) -> tuple[list[float], list[float]]:
    prompts = body["text_1"] if body.get("text_1") is not None else body["queries"]
    answers = body["text_2"] if body.get("text_2") is not None else body["documents"]
    prompts, answers = ([one] if isinstance(one, str) else one for one in (prompts, answers))
    if len(prompts) == 1:
        rows = [Answers(prompt=prompts[0], answers=list(answers))] if answers else []
    else:
        rows = [Answers(prompt=one, answers=[two]) for one, two in zip(prompts, answers, strict=True)]
    wanted = model.rewards(rows)
    return [one["score"] for one in answer["data"]], [_sigmoid(one) for one in wanted] if body.get(
        "use_activation"
    ) else wanted


def _of_rerank(body: Any, answer: Any, model: Locked) -> tuple[list[float], list[float]]:
    documents = body["documents"]
    wanted = model.rewards([Answers(prompt=body["query"], answers=list(documents))]) if documents else []
    wanted = [_sigmoid(one) for one in wanted] if body.get("use_activation") else wanted
    wanted = sorted(wanted, reverse=True)[: int(body.get("top_n") or 0) or None]
    return [one["relevance_score"] for one in answer["results"]], wanted


def _of_ids(body: Any, answer: Any, model: Locked) -> tuple[list[float], list[float]]:
    """Of token ids: each by itself."""
    import numpy as np

    given = body.get("input")
    if not given or isinstance(given, str) or isinstance(given[0], str) or body.get("use_activation"):
        return [], []
    rows = [given] if isinstance(given[0], int | float) else given
    encoded = [
        EncodedAnswers(
            ids=[np.array(one, dtype=np.int32)], num_prompt_tokens=0, full_lengths=[len(one)], cut_prompt=0,
            cut_ends=[0],
        )
        for one in rows
    ]  # fmt: skip
    found = [one["data"][0] if "data" in one else one["probs"][0] for one in answer["data"]]
    return found, [one.rewards[0] for one in model.compute(encoded)]


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


EXPECTED: dict[str, Callable[[Any, Any, Locked], tuple[list[float], list[float]]]] = {
    "/score": _of_score, "/v1/score": _of_pairs, "/pooling": _of_ids, "/v1/pooling": _of_ids, "/classify": _of_ids,
    "/v1/classify": _of_ids, **dict.fromkeys(("/rerank", "/v1/rerank", "/v2/rerank"), _of_rerank),
}  # fmt: skip


def _broken_bytes(server: Server, examples: int, number: int, outcome: Outcome) -> None:
    """Good bodies with some bytes changed, to all routes."""
    chance = random.Random(number)
    for _ in range(examples):
        body = bytearray(chance.choice(_SEEDS))
        for _ in range(chance.randint(1, 6)):
            at = chance.randrange(len(body))
            body[at : at + chance.randint(0, 3)] = chance.randbytes(chance.randint(0, 3))
        path = chance.choice(["/score", "/get_reward", "/pooling", "/rerank"])
        found = server.post(path, bytes(body))
        outcome.sent[f"{path} (bytes)", found.status] += 1
        if found.status not in (200, 400, 404, 422):
            outcome.problems.append(f"{path} {bytes(body)!r}: {found.status}")
