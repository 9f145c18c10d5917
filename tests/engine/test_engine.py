from __future__ import annotations

import math
import signal
from pathlib import Path

import pytest
import torch

import llmcli
from llmcli.engine import Engine, Event, Finish, Interruption, Prefill, SamplingParams, Step
from llmcli.errors import PromptTooLongError, UsageError
from tests.support.models.puppet import ASSISTANT, chain, loop, write_puppet
from tests.support.models.tiny import random_ids
from tests.support.models.tiny_checkpoints import tiny_checkpoint

GREEDY = SamplingParams(temperature=0)


def puppet(folder: Path, says: bytes, **options: int) -> Engine:
    return llmcli.load(write_puppet(folder, chain(says), **options), dtype="float32").engine()


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if not isinstance(event, Prefill))


def finish_of(events: list[Event]) -> Finish:
    assert isinstance(events[-1], Finish)
    return events[-1]


def steps_of(events: list[Event]) -> list[Step]:
    return [event for event in events if isinstance(event, Step)]


def test_the_events_of_a_reply(tmp_path: Path) -> None:
    events = list(puppet(tmp_path, b"Hi!").stream([65, ASSISTANT], GREEDY))
    assert isinstance(events[0], Prefill)
    assert (events[0].tokens, events[0].cached) == (2, 0)
    assert [step.text for step in steps_of(events)] == ["H", "i", "!"]
    assert [step.index for step in steps_of(events)] == [0, 1, 2]
    finish = finish_of(events)
    assert finish.reason == "stop"
    assert (finish.stats.prompt_tokens, finish.stats.generated_tokens) == (2, 3)
    assert finish.stats.ttft_s is not None and finish.stats.ttft_s > 0
    assert finish.stats.peak_memory_bytes > 0


def test_characters_appear_whole(tmp_path: Path) -> None:
    events = list(puppet(tmp_path, "a😀b".encode()).stream([ASSISTANT], GREEDY))
    assert [step.text for step in steps_of(events)] == ["a", "", "", "", "😀", "b"]


def test_an_unfinished_character_is_shown_at_the_end(tmp_path: Path) -> None:
    events = list(puppet(tmp_path, b"a\xf0\x9f").stream([ASSISTANT], GREEDY))
    assert text_of(events) == "a\ufffd"


@pytest.mark.parametrize("stop", ["lo", "l", "el", "Hel"])
def test_a_stop_string_ends_the_reply_before_itself(tmp_path: Path, stop: str) -> None:
    events = list(puppet(tmp_path, b"Helo wrd").stream([ASSISTANT], SamplingParams(temperature=0, stop=(stop, "xyz"))))
    assert finish_of(events).reason == "stop_string"
    assert text_of(events) == "Helo wrd".partition(stop)[0]


def test_text_held_back_for_a_stop_string_is_not_lost(tmp_path: Path) -> None:
    events = list(puppet(tmp_path, b"ab").stream([ASSISTANT], SamplingParams(temperature=0, stop=("bc",))))
    assert text_of(events) == "ab"
    assert finish_of(events).text == "b"


def test_max_tokens_and_context_end_a_reply(tmp_path: Path) -> None:
    folder = write_puppet(tmp_path, loop(b"abc"), context=20)
    engine = llmcli.load(folder).engine()
    events = list(engine.stream([ASSISTANT], SamplingParams(temperature=0, max_tokens=7)))
    assert (text_of(events), finish_of(events).reason) == ("abcabca", "length")
    events = list(engine.stream([ASSISTANT], GREEDY))
    assert finish_of(events).reason == "context"
    assert finish_of(events).stats.generated_tokens == 19
    smaller = llmcli.load(folder).engine(context_length=5)
    assert finish_of(list(smaller.stream([ASSISTANT], GREEDY))).stats.generated_tokens == 4


def test_a_prompt_that_does_not_fit_is_refused_with_both_numbers(tmp_path: Path) -> None:
    engine = puppet(tmp_path, b"ab", context=20)
    with pytest.raises(PromptTooLongError, match=r"20 tokens.*holds 20.*1 too long"):
        engine.stream([65] * 20)
    assert text_of(list(engine.stream([65] * 18 + [ASSISTANT], GREEDY))) == "a"
    with pytest.raises(UsageError, match="empty"):
        engine.stream([])
    with pytest.raises(UsageError, match="up to 20 tokens"):
        llmcli.load(tmp_path).engine(context_length=21)


def test_probabilities_are_the_models_own_and_sampled_ones_come_after_the_filters(tmp_path: Path) -> None:
    folder = write_puppet(tmp_path, {ASSISTANT: {65: 0.5, 66: 0.3, 67: 0.2}})
    loaded = llmcli.load(folder, dtype="float32")
    params = SamplingParams(temperature=0.5, top_k=2, top_p=1.0, seed=3, max_tokens=1)
    (step,) = steps_of(list(loaded.engine().stream([ASSISTANT], params, top=3)))
    assert [candidate.id for candidate in step.top] == [65, 66, 67]
    assert [math.exp(candidate.logprob) for candidate in step.top] == pytest.approx([0.5, 0.3, 0.2], rel=1e-3)
    assert step.entropy == pytest.approx(-sum(p * math.log(p) for p in (0.5, 0.3, 0.2)), rel=1e-3)
    chosen = {65: (0.5, 0.25 / 0.34), 66: (0.3, 0.09 / 0.34)}[step.id]
    assert math.exp(step.logprob or 0) == pytest.approx(chosen[0], rel=1e-3)
    assert step.sampled_prob == pytest.approx(chosen[1], rel=1e-3)


def test_the_same_seed_gives_the_same_text_with_and_without_probabilities(tmp_path: Path) -> None:
    loaded = llmcli.load(tiny_checkpoint(tmp_path, "llama"))
    params = SamplingParams(temperature=1.5, top_k=0, seed=11, max_tokens=30)
    texts = {
        text_of(list(loaded.engine().stream([1, 2, 3], params, probabilities=looking, top=top)))
        for looking, top in ((False, 0), (True, 0), (True, 5))
    }
    assert len(texts) == 1
    other = SamplingParams(temperature=1.5, top_k=0, seed=12, max_tokens=30)
    assert text_of(list(loaded.engine().stream([1, 2, 3], other))) not in texts


def test_only_new_tokens_are_read_and_the_answer_is_the_same(tmp_path: Path) -> None:
    loaded = llmcli.load(tiny_checkpoint(tmp_path, "mistral", sliding_window=9), dtype="float32")
    engine = loaded.engine()
    params = SamplingParams(temperature=0, max_tokens=10)
    prompt = random_ids(30)
    first = steps_of(list(engine.stream(prompt, params)))
    reply = [step.id for step in first]
    for follow_up, cached in (
        # The last token of the reply was not read yet, so it is read now.
        (prompt + reply + [5, 6, 7], len(prompt) + len(reply) - 1),
        (prompt[:20] + [99] * 4, 20),
        (prompt[:20], 19),
        (random_ids(8, seed=9), 0),
    ):
        events = list(engine.stream(follow_up, params))
        assert finish_of(events).stats.cached_tokens == cached
        fresh = list(loaded.engine().stream(follow_up, params))
        assert [s.id for s in steps_of(events)] == [s.id for s in steps_of(fresh)]


def test_long_prompts_are_read_in_chunks_with_progress(tmp_path: Path) -> None:
    loaded = llmcli.load(tiny_checkpoint(tmp_path, "llama", max_position_embeddings=2000), dtype="float32")
    seen: list[tuple[int, int]] = []
    prompt = random_ids(1100)
    events = loaded.engine().stream(prompt, GREEDY, progress=lambda done, total: seen.append((done, total)), top=1)
    assert isinstance(next(events), Prefill)
    assert seen == [(0, 1100), (512, 1100), (1024, 1100), (1100, 1100)]
    step = next(events)
    assert isinstance(step, Step)
    expected = loaded.logits(prompt)[-1].log_softmax(-1)
    assert step.id == int(expected.argmax())
    assert step.logprob == pytest.approx(float(expected.max()), abs=1e-4)


def test_an_interruption_between_tokens_keeps_what_was_said(tmp_path: Path) -> None:
    engine = llmcli.load(write_puppet(tmp_path, loop(b"abc"))).engine()
    interruption = Interruption()
    events: list[Event] = []
    for event in engine.stream([ASSISTANT], GREEDY, interruption=interruption):
        events.append(event)
        if len(events) == 5:
            interruption.request()
    assert (text_of(events), finish_of(events).reason) == ("abca", "interrupted")


def test_an_interruption_before_the_prompt_is_read_keeps_it_from_being_read(tmp_path: Path) -> None:
    loaded = llmcli.load(tiny_checkpoint(tmp_path, "llama"))
    passes: list[object] = []
    loaded.model.embed_tokens.register_forward_hook(lambda *_: passes.append(1))
    interruption = Interruption()
    interruption.request()
    events = list(loaded.engine().stream([1, 2, 3], GREEDY, interruption=interruption))
    assert (finish_of(events).reason, steps_of(events), passes) == ("interrupted", [], [])


def test_ctrl_c_interrupts_a_pass_and_the_cache_stays_valid(tmp_path: Path) -> None:
    loaded = llmcli.load(tiny_checkpoint(tmp_path, "llama"), dtype="float32")
    engine, interruption = loaded.engine(), Interruption()
    passes = 0

    def press_ctrl_c(*_: object) -> None:
        nonlocal passes
        passes += 1
        if passes == 3 * 3 + 2:  # in the second layer of the third pass after the prompt
            signal.raise_signal(signal.SIGINT)

    hooks = [
        loaded.model.get_submodule(f"layers.{layer}.self_attn.o_proj").register_forward_hook(press_ctrl_c)
        for layer in range(3)
    ]
    with interruption.catching_ctrl_c():
        events = list(engine.stream([1, 2, 3], GREEDY, interruption=interruption))
    for hook in hooks:
        hook.remove()
    assert finish_of(events).reason == "interrupted"
    said = [step.id for step in steps_of(events)]
    assert len(said) == 3
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    going_on = SamplingParams(temperature=0, max_tokens=5)
    again = list(engine.stream([1, 2, 3, *said], going_on))
    assert finish_of(again).stats.cached_tokens == 5
    fresh = list(loaded.engine().stream([1, 2, 3, *said], going_on))
    assert [s.id for s in steps_of(again)] == [s.id for s in steps_of(fresh)]


def test_another_reply_to_a_prompt_has_the_bits_it_would_have_alone(tmp_path: Path) -> None:
    loaded = llmcli.load(tiny_checkpoint(tmp_path, "llama"))
    prompt = random_ids(20)
    engine = loaded.engine()
    for seed in (1, 2):
        params = SamplingParams(seed=seed, max_tokens=6)
        events, alone = (list(each.stream(prompt, params)) for each in (engine, loaded.engine()))
        assert finish_of(events).stats.cached_tokens == (20 if seed == 2 else 0)
        assert [(step.id, step.logprob) for step in steps_of(events)] == [
            (step.id, step.logprob) for step in steps_of(alone)
        ]
    # A prompt that is only the beginning of the text before is read as ever.
    assert finish_of(list(engine.stream(prompt[:10], params))).stats.cached_tokens == 9


def test_without_an_interruption_ctrl_c_reaches_the_caller(tmp_path: Path) -> None:
    loaded = llmcli.load(tiny_checkpoint(tmp_path, "llama"))

    def press_ctrl_c(*_: object) -> None:
        signal.raise_signal(signal.SIGINT)

    hook = loaded.model.layers[1].register_forward_hook(press_ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        list(loaded.engine().stream([1, 2, 3], GREEDY))
    hook.remove()


def test_padding_rows_of_the_vocabulary_are_never_chosen(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path, "llama", vocab_size=300)
    loaded = llmcli.load(folder)
    with torch.no_grad():
        loaded.model.lm_head.weight[270] *= 1000
    steps = steps_of(list(loaded.engine().stream([1], SamplingParams(temperature=5.0, top_k=0, max_tokens=50, seed=0))))
    assert all(step.id <= 260 for step in steps)


def test_conversations_reuse_the_prefix_cache(tmp_path: Path) -> None:
    from llmcli.engine import Conversation

    loaded = llmcli.load(write_puppet(tmp_path, chain(b"Yes.")))
    assert loaded.template is not None
    conversation = Conversation(loaded.engine(), loaded.tokenizer, loaded.template, system="Be brief.")

    def ask(text: str) -> list[Event]:
        return list(conversation.ask(text, GREEDY))

    first = finish_of(ask("One?"))
    assert first.stats.cached_tokens == 0
    second = finish_of(ask("Two?"))
    # All but the token that ended the reply.
    assert second.stats.cached_tokens == first.stats.prompt_tokens + len("Yes.")
    assert [message.content for message in conversation.messages] == ["One?", "Yes.", "Two?", "Yes."]
    assert conversation.take_back() == "Two?"
    assert len(conversation.messages) == 2


def test_a_message_that_does_not_fit_leaves_the_conversation_as_it_was(tmp_path: Path) -> None:
    from llmcli.engine import Conversation

    loaded = llmcli.load(write_puppet(tmp_path, chain(b"Yes."), context=40))
    assert loaded.template is not None
    conversation = Conversation(loaded.engine(), loaded.tokenizer, loaded.template)
    list(conversation.ask("One?", GREEDY))
    with pytest.raises(PromptTooLongError):
        conversation.ask("x" * 50, GREEDY)
    assert len(conversation.messages) == 2
    with pytest.raises(UsageError, match="Nothing"):
        Conversation(loaded.engine(), loaded.tokenizer, loaded.template).take_back()


def test_with_a_forward_hook_the_readable_model_continues_on_the_same_cache(tmp_path: Path) -> None:
    loaded = llmcli.load(tiny_checkpoint(tmp_path, "llama"), dtype="float32", device="cpu")
    engine, params = loaded.engine(threads=2), SamplingParams(temperature=0, max_tokens=6)
    if loaded.why_readable:
        pytest.skip(loaded.why_readable)
    prompt = random_ids(20)
    plain = list(engine.stream(prompt, params))
    assert finish_of(plain).stats.path.startswith("cpu kernel (")
    assert "2 threads), float32" in finish_of(plain).stats.path
    said = [step.id for step in steps_of(plain)]
    seen: list[int] = []
    hook = loaded.model.layers[1].register_forward_hook(lambda _module, _inputs, output: seen.append(output.shape[1]))
    watched = list(engine.stream([*prompt, *said], params))
    hook.remove()
    assert finish_of(watched).stats.path == "readable model, cpu, float32 (to look inside)"
    assert seen == [1] * 6
    alone = list(loaded.engine().stream([*prompt, *said], params))
    assert [step.id for step in steps_of(watched)] == [step.id for step in steps_of(alone)]


def test_the_reason_for_the_readable_model_is_in_the_stats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llmcli.kernels.base import NoKernelError
    from llmcli.kernels.cpu import build

    def fails(*_: object) -> build.Library:
        raise NoKernelError("no C compiler found")

    monkeypatch.setattr(build, "load_library", fails)
    loaded = llmcli.load(write_puppet(tmp_path, chain(b"ab")), device="cpu", dtype="float32")
    finish = finish_of(list(loaded.engine().stream([ASSISTANT], GREEDY)))
    assert finish.stats.path == "readable model, cpu, float32 (no C compiler found)"


@pytest.mark.parametrize("bits", ["int8", "int4"])
def test_quantized_models_generate(tmp_path: Path, bits: str) -> None:
    loaded = llmcli.load(tiny_checkpoint(tmp_path, "mixtral"), device="cpu", quantize=bits)
    events = list(loaded.engine().stream(random_ids(40), SamplingParams(temperature=0, max_tokens=5)))
    path = finish_of(events).stats.path
    assert loaded.why_readable or path.endswith(bits if bits == "int8" else "int4/int8")
    best = loaded.logits(random_ids(40))[-1, : loaded.tokenizer.vocab_size].argmax()
    assert steps_of(events)[0].id == int(best)
