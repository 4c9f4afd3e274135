"""Every route gives the rewards that the model gives."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from rm_experiments.config.serve_schema import ServeConfig
from rm_experiments.data.answers import Answers
from rm_experiments.data.templates import first_token, last_token, render
from rm_experiments.scoring.model import OpenedModel, RewardModel, Scores
from rm_experiments.serving.service import _joined
from tests.serving.running import Server, Slow, loaded, running, together, until

EXACT = 1e-6
PROMPT = "What is a river?"
ANSWERS = ["Water.", "A stone that nobody has ever seen.", ""]
TURNS = [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": ANSWERS[1]}]


def near(values: Any) -> Any:
    return pytest.approx(values, abs=EXACT)


@pytest.fixture(scope="module")
def server(saved: tuple[OpenedModel, RewardModel]) -> Iterator[Server]:
    with running(ServeConfig(checkpoint="x"), {"tiny": saved}) as started:
        yield started


@pytest.fixture(scope="module")
def rewards(saved: tuple[OpenedModel, RewardModel]) -> list[float]:
    """Of each of ANSWERS to PROMPT, all different."""
    found = saved[1].score(PROMPT, ANSWERS)
    assert min(abs(one - two) for one in found for two in found if one != two) > 1e-4
    return found


def test_a_row_of_each_kind_alone(server: Server, rewards: list[float]) -> None:
    one = server.post("/score", {"prompt": PROMPT, "response": ANSWERS[0], "id": "mine"}).body
    assert (one["model"], one["id"], one["reward"]) == ("tiny", "mine", near(rewards[0]))

    many = server.post("/score", {"prompt": PROMPT, "responses": ANSWERS}).body
    order = sorted(range(3), key=lambda number: -rewards[number])
    assert (many["rewards"], many["best"]) == (near(rewards), order[0])
    assert [many["rank"][number] for number in order] == [1, 2, 3]

    pair = server.post("/score", {"prompt": PROMPT, "chosen": ANSWERS[0], "rejected": ANSWERS[1]}).body
    assert (pair["reward_chosen"], pair["reward_rejected"]) == (near(rewards[0]), near(rewards[1]))

    dialogue = server.post("/score", {"messages": TURNS}).body
    assert dialogue["reward"] == near(rewards[1])


def test_rows_of_all_kinds_at_once_keep_their_order(
    server: Server, saved: tuple[OpenedModel, RewardModel], rewards: list[float]
) -> None:
    model = saved[1]
    system = [{"role": "system", "content": "Be brief."}, TURNS[0]]
    rows = [
        {"messages": TURNS, "id": 5}, {"prompt": PROMPT, "responses": ANSWERS}, {"response": "Alone."},
        {"prompt": PROMPT, "system": "Be brief.", "response": [{"role": "assistant", "content": "Yes."}]},
    ]  # fmt: skip

    found = server.post("/score", {"rows": rows, "model": "tiny"})

    assert found.status == 200
    first, second, third, fourth = found.body["rows"]
    assert (first["id"], first["reward"], second["rewards"]) == (5, near(rewards[1]), near(rewards))
    assert third["reward"] == near(model.score("", "Alone."))
    assert fourth["reward"] == near(model.score(system, "Yes."))
    assert server.post("/score", {"rows": []}).body == {"model": "tiny", "rows": []}


def test_tokens_and_cuts_are_told(server: Server, saved: tuple[OpenedModel, RewardModel]) -> None:
    model = saved[1]
    prompt, answers = "very " * 90 + "long?", ["No.", "word " * 90]
    (encoded,) = model.encode([Answers(prompt=prompt, answers=answers)])

    found = server.post("/score", {"prompt": prompt, "responses": answers}).body

    assert found["rewards"] == near(model.score(prompt, answers))
    assert found["num_tokens"] == encoded.full_lengths
    assert (found["cut_prompt"], found["cut_ends"]) == (encoded.cut_prompt, encoded.cut_ends)
    assert found["cut_prompt"] > 0
    assert found["cut_ends"][0] == 0
    assert found["cut_ends"][1] > 0
    assert found["reads_until"][0] is None
    assert len(found["reads_until"][1]) > 20
    assert found["reads_until"][1] in answers[1]
    # Of what fits nothing is said.
    assert "reads_from" not in server.post("/score", {"prompt": "a", "response": "b"}).body

    shorter = server.post("/score", {"prompt": prompt, "response": "No."}).body
    assert shorter["cut_ends"] == [0]
    assert shorter["reads_from"]
    assert shorter["reads_from"][:20] in f"{prompt}\n\nAssistant:"


def test_a_client_is_not_told_what_only_an_operator_can_type(
    saved: tuple[OpenedModel, RewardModel], serve: Callable[..., Server]
) -> None:
    from pathlib import Path

    strict = loaded(Path(saved[0].name), max_length=10, overlength="error")
    server = serve(models={"tiny": strict})
    for path, body, place in (
        ("/score", {"rows": [{"response": "a " * 20}]}, "rows[0]"), ("/score", {"response": "a " * 20}, "the row"),
        ("/rerank", {"query": "a", "documents": ["a " * 20]}, ""),
    ):  # fmt: skip
        found = server.post(path, body)
        assert found.status == 422
        assert found.body["error"]["message"].startswith(place)
        assert found.body["error"]["message"].endswith("tokens exceed data.max_length=10")


def rendered(opened: OpenedModel, answer: str, prompt: str = PROMPT) -> str:
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return render(opened.saved.tokenizer, [turns])[0]


def test_rendered_texts_have_the_rewards_of_their_dialogues(
    server: Server, saved: tuple[OpenedModel, RewardModel], rewards: list[float]
) -> None:
    opened = saved[0]
    tokenizer = opened.saved.tokenizer
    texts = [rendered(opened, one) for one in ANSWERS]
    prompts = [render(tokenizer, [TURNS[:1]], generation_prompt=True)[0]] * 3

    remote = server.post("/get_reward", {"query": texts, "prompts": prompts, "labels": [None, "x", 1]}).body
    assert remote == {"rewards": near(rewards), "scores": near(rewards), "extra_logs": {}}
    assert server.post("/get_reward?model=tiny", {"query": texts}).body["rewards"] == near(rewards)
    # An answer that was cut off while it was generated has no end token; the reward is read at one.
    open_ended = [one.removesuffix(last_token(tokenizer)) for one in texts]
    assert open_ended != texts
    assert server.post("/get_reward", {"query": open_ended}).body["rewards"] == near(rewards)
    assert server.post("/get_reward", {"query": [f"{one}\n" for one in texts]}).body["rewards"] == near(rewards)

    assert server.post("/get_reward", {"query": []}).body["rewards"] == []
    pooled = server.post("/pooling", {"input": texts, "model": "tiny"}).body
    assert [one["data"] for one in pooled["data"]] == [[near(one)] for one in rewards]
    assert server.post("/v1/pooling", {"input": texts[0]}).body["data"][0]["data"] == [near(rewards[0])]
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    by_ids = server.post("/pooling", {"input": ids}).body
    assert [one["data"] for one in by_ids["data"]] == [[near(one)] for one in rewards]
    assert by_ids["usage"]["prompt_tokens"] == sum(map(len, ids))
    assert server.post("/pooling", {"input": ids[1]}).body["data"][0]["data"] == [near(rewards[1])]


def test_a_missing_first_token_is_added(saved: tuple[OpenedModel, RewardModel]) -> None:
    from rm_experiments.serving.rendered import RenderedTexts

    texts = RenderedTexts(saved[0])
    tokenizer = saved[0].saved.tokenizer
    text = rendered(saved[0], "Water.")
    first = first_token(tokenizer)
    plain = text if first is None else text.removeprefix(first)
    assert texts._complete(plain) == text
    texts._first = "<<"
    assert texts._complete("a") == f"<<a{last_token(tokenizer)}"
    assert texts._complete(f"<<a{last_token(tokenizer)} \n") == f"<<a{last_token(tokenizer)}"


def test_a_rendered_text_that_is_too_long_is_cut_like_its_dialogue(
    server: Server, saved: tuple[OpenedModel, RewardModel]
) -> None:
    opened, model = saved
    prompt = "very " * 90 + "long?"
    query = rendered(opened, "No.", prompt)
    before = render(opened.saved.tokenizer, [[{"role": "user", "content": prompt}]], generation_prompt=True)[0]
    wanted = near(model.score(prompt, "No."))

    assert server.post("/get_reward", {"query": [query], "prompts": [before]}).body["rewards"] == [wanted]
    # Without the prompt the oldest tokens go, too.
    assert server.post("/get_reward", {"query": [query]}).body["rewards"] == [wanted]
    # A prompt that the text does not begin with says nothing.
    assert server.post("/get_reward", {"query": [query], "prompts": ["other"]}).body["rewards"] == [wanted]


def test_vllm_calls(server: Server, rewards: list[float]) -> None:
    asked = server.post("/classify", {"messages": TURNS}).body["data"]
    assert asked == [{"index": 0, "label": "reward", "probs": [near(rewards[1])], "num_classes": 1}]
    sigmoid = 1 / (1 + math.exp(-rewards[1]))
    activated = server.post("/v1/classify", {"messages": TURNS, "use_activation": True}).body["data"][0]
    assert activated["probs"] == [near(sigmoid)]

    # As verl and others send it.
    more = {"add_special_tokens": False, "truncate_prompt_tokens": -1, "task": "classify", "user": None}
    named = server.post("/classify", {"messages": TURNS, "model": "tiny", "activation": True, **more}).body["data"][0]
    assert named["probs"] == [near(sigmoid)]
    plain = server.post("/classify", {"messages": TURNS, "activation": False}).body["data"][0]
    assert plain["probs"] == [near(rewards[1])]
    for name, value in (
        ("add_special_tokens", True), ("truncate_prompt_tokens", 5), ("task", "token_classify"),
        ("use_activation", 0.5),
    ):  # fmt: skip
        refused = server.post("/classify", {"messages": TURNS, "activation": False, name: value})
        assert refused.status == 422
        assert refused.body["error"]["message"].startswith(f"{name}: ")

    scored = server.post("/v1/score", {"text_1": PROMPT, "text_2": ANSWERS}).body
    assert [one["score"] for one in scored["data"]] == near(rewards)
    each = server.post("/v1/score", {"queries": [PROMPT, PROMPT], "documents": ANSWERS[:2]}).body
    assert [one["score"] for one in each["data"]] == near(rewards[:2])

    order = sorted(range(3), key=lambda number: -rewards[number])
    for path in ("/rerank", "/v1/rerank", "/v2/rerank"):
        ranked = server.post(path, {"query": PROMPT, "documents": ANSWERS}).body
        assert [one["index"] for one in ranked["results"]] == order
        assert [one["relevance_score"] for one in ranked["results"]] == near([rewards[one] for one in order])
        assert ranked["results"][0]["document"] == {"text": ANSWERS[order[0]]}
    top = server.post("/rerank", {"query": PROMPT, "documents": ANSWERS, "top_n": 1, "return_documents": False}).body
    assert [one["index"] for one in top["results"]] == order[:1]
    assert "document" not in top["results"][0]


def test_two_models_side_by_side(
    serve: Callable[..., Server], saved: tuple[OpenedModel, RewardModel], rewards: list[float]
) -> None:
    opened, model = saved
    other = Slow(model)
    other.spoil = lambda encoded, scores: [replace(one, rewards=[-1.0] * len(one.rewards)) for one in scores]
    server = serve(models={"first": (opened, model), "second": (opened, other)})

    with together(8) as submit:
        asked = [
            (name, submit(server.post, "/score", {"prompt": PROMPT, "responses": ANSWERS, "model": name}))
            for name in ("first", "second", None, "second") * 2
        ]
        for name, found in asked:
            answer = found.result().body
            assert answer["model"] == (name or "first")
            assert answer["rewards"] == (near([-1.0] * 3) if name == "second" else near(rewards))
    assert server.post("/get_reward?model=second", {"query": ["a"]}).body["rewards"] == [-1.0]
    cards = server.get("/v1/models").body["data"]
    # No directory of this machine is told.
    assert [one["root"] for one in cards] == ["first", "second"]
    assert [(one["id"], one["max_model_len"]) for one in cards] == [("first", 100), ("second", 100)]
    unknown = server.post("/score", {"prompt": "a", "response": "b", "model": "third"})
    assert (unknown.status, unknown.body["error"]["message"]) == (
        404, "model 'third' is not served; there is first, second",
    )  # fmt: skip


def test_strangers_are_answered_when_one_request_fails_or_has_no_finite_reward(
    serve: Callable[..., Server], slow: Slow, saved: tuple[OpenedModel, RewardModel]
) -> None:
    server = serve()
    wanted = {name: saved[1].score("", name) for name in "ab"}
    bad = {name: saved[1].encode([Answers(prompt="", answers=[name])])[0].ids[0].tolist() for name in ("boom", "nan")}

    def spoil(encoded: Any, scores: Any) -> Any:
        ids = [one.ids[0].tolist() for one in encoded]
        if bad["boom"] in ids:
            raise RuntimeError("a kernel failed")
        return [
            replace(one, rewards=[math.nan]) if own == bad["nan"] else one for own, one in zip(ids, scores, strict=True)
        ]

    slow.spoil = spoil
    slow.free.clear()
    with together(6) as submit:
        first = submit(server.post, "/score", {"response": "first"})
        assert slow.begun.acquire(timeout=20)
        asked = {name: submit(server.post, "/score", {"response": name}) for name in ("a", "boom", "b", "nan")}
        asked["mixed"] = submit(server.post, "/score", {"prompt": "", "responses": ["nan", "c"]})
        until(lambda: server.service.batcher.waiting[0] == 6)
        slow.free.set()
        assert first.result().status == 200
        for name in ("a", "b"):
            assert asked[name].result().body["reward"] == near(wanted[name])
        assert asked["boom"].result().status == 500
        assert asked["boom"].result().body["error"]["message"] == (
            "the model failed on this request; the server's log says why"
        )
        for name in ("nan", "mixed"):
            assert asked[name].result().status == 500
            assert "a reward is not finite" in asked[name].result().body["error"]["message"]
    assert server.post("/score", {"response": "first"}).status == 200


def test_models_of_different_precision_keep_theirs(
    saved: tuple[OpenedModel, RewardModel], rewards: list[float]
) -> None:
    opened, model = saved
    half = RewardModel.of(opened, opened.computing("cpu", "bf16"))
    alone = half.score(PROMPT, ANSWERS)
    assert alone != near(rewards)

    assert model.score(PROMPT, ANSWERS) == near(rewards)
    assert half.score(PROMPT, ANSWERS) == near(alone)
    assert (model.precision, half.precision) == ("fp32", "bf16")
    assert model.score(PROMPT, ANSWERS) == near(rewards)


def test_the_answers_of_an_ensemble_bring_their_deviations() -> None:
    singles = [Scores(rewards=[float(one)], heads=[[one - 1.0, one + 1.0]], sds=[one / 2]) for one in (1, 2, 3)]
    joined = _joined(singles)
    assert joined == Scores(rewards=[1, 2, 3], heads=[[0, 2], [1, 3], [2, 4]], sds=[0.5, 1, 1.5])
    assert _joined([replace(one, sds=None) for one in singles]).sds is None
