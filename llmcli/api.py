"""The public Python API: `llmcli.load(...)` and the `LoadedModel` it returns."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from llmcli.checkpoint.chat_template_file import check_template_file
from llmcli.checkpoint.checkpoint import Checkpoint, open_checkpoint
from llmcli.checkpoint.edits.edit_file import Edit, apply_edits, read_edits
from llmcli.checkpoint.edits.store import find_edit
from llmcli.checkpoint.load_packed import Packing, default_packing
from llmcli.checkpoint.load_weights import load_weights
from llmcli.checkpoint.text_assets import TextParts
from llmcli.device import choose_device, choose_dtype
from llmcli.engine import Engine, Event, SamplingParams
from llmcli.engine.batch.backend import BatchBackend
from llmcli.engine.batch.batch import Batch, BatchReply, Request
from llmcli.engine.chat import Chat
from llmcli.engine.conversation import Conversation
from llmcli.engine.prefix_cache import PrefixCache
from llmcli.engine.reasoning import ThinkingApart
from llmcli.engine.recommendations import recommended_params
from llmcli.engine.reply import Reply, collect
from llmcli.engine.speculative.decoder import SpeculationState
from llmcli.engine.speculative.draft_model import DraftModel, same_vocabulary
from llmcli.errors import CheckpointError, LlmcliError, UsageError
from llmcli.hub.resolve import resolve
from llmcli.kernels.base import FastStep
from llmcli.kernels.readable_step import ReadableStep
from llmcli.kernels.select import fast_step, why_no_kernel
from llmcli.model import ModelConfig, Transformer
from llmcli.text.chat.end_of_turn import TurnEnd, turn_end
from llmcli.text.chat.messages import Message, as_messages
from llmcli.text.chat.prompt import ChatPrompt
from llmcli.text.chat.reply_prompt import ReplyPrompt
from llmcli.text.chat_template.template import ChatTemplate
from llmcli.text.stop_tokens import NO_STOP_TOKEN
from llmcli.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from llmcli.engine.recommendations import SamplingSettings

# Where packed weights can lie.
_PACKED_ON = ("cpu", "cuda")
# From so many bytes of dense weights on, replies are slow enough to say what would help.
_HEAVY = 1 << 30
# Bytes of weights that take seconds to read.
_LARGE = 4 << 30


def _warn(line: str) -> None:
    warnings.warn(line, RuntimeWarning, stacklevel=2)


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to run, with everything that belongs to it."""

    name: str
    source: Path
    config: ModelConfig
    model: Transformer
    tokenizer: Tokenizer
    template: ChatTemplate | None
    """How the model wants a conversation written down; None if it was not made for conversations."""
    declared_stop_ids: Mapping[int, tuple[str, ...]]
    """Ids that end a reply according to the model's files, each with the places that say so."""
    generation_defaults: Mapping[str, float]
    notes: tuple[str, ...]
    packing: Packing | None = None
    """How weights are kept in few bits: as "stored" in the file, or rounded to "int8" or "int4"; None: not at all."""
    why_readable: str = ""
    """Why no kernel can run it; empty if one can."""
    edits: tuple[Edit, ...] = ()
    """What has been laid over the weights."""
    tell: Callable[[str], None] = field(default=_warn, repr=False, compare=False)
    """Hears a line where a kernel turns out not to be used, so that replies are slower: by default a Python warning."""

    @cached_property
    def turn_end(self) -> TurnEnd:
        """What the chat template ends the model's turn with; writes a short conversation with it when first asked."""
        return TurnEnd() if self.template is None else turn_end(self.tokenizer, self.template)

    @property
    def stop_ids(self) -> Mapping[int, tuple[str, ...]]:
        """Ids that end a reply, each with the places that say so: the model's files, and how the template ends one."""
        return self.turn_end.stop_ids(self.declared_stop_ids)

    @torch.inference_mode()
    def logits(self, ids: Sequence[int]) -> Tensor:
        """Logits after each of the T tokens `ids`, (T, V), from the readable model without a cache."""
        if not ids:
            raise UsageError("There are no tokens to compute logits for.")
        logits: Tensor = self.model(torch.tensor([list(ids)], device=self.model.device))
        return logits[0]

    def engine(
        self,
        *,
        context_length: int | None = None,
        threads: int | None = None,
        draft: LoadedModel | None = None,
        lookup: bool | None = False,
        draft_tokens: int | None = None,
        chat: bool = True,
    ) -> Engine:
        """A new engine with a KV cache of its own; `context_length` in tokens, by default the model's own limit.

        `threads` is how many the CPU kernel computes with: by default one for each physical core. A `draft` model of
        the same vocabulary, or `lookup` in the text so far, propose `draft_tokens` at a time, by default as many as
        pay, and several are verified in one pass. The distribution of what is said stays the model's own. On the
        readable model a pass of several tokens adds up in another order than one of a single token, so that one of two
        tokens that are all but equal may be chosen otherwise; `lookup=None` looks up only where there is no such
        difference. A reply in a `chat` also ends with what the chat template ends one with, and may think before it
        answers; that of a text to continue ends only with what the model's files name, and all of it is the answer.

        Raises:
            UsageError: there can be no context of that length, or `draft` has another vocabulary.
        """
        step = self._step(threads)
        if lookup is None:
            lookup = step.capabilities.most_each > 1
        speculation = None
        if draft is not None or lookup:
            drafter = None if draft is None else draft._drafter(self, threads)
            speculation = SpeculationState(lookup=lookup, draft=drafter, tokens=draft_tokens)
        return Engine(
            self.model,
            self.tokenizer,
            stop_ids=self.stop_ids if chat else self.declared_stop_ids,
            stop_texts=self.turn_end.texts if chat else (),
            thinks=chat and self.template is not None,
            context_length=context_length,
            step=step,
            speculation=speculation,
        )

    def stream(
        self,
        prompt: str | Sequence[Message | Mapping[str, object]],
        *,
        system: str | None = None,
        template_args: Mapping[str, object] | None = None,
        raw: bool = False,
        prefill: str = "",
        no_thinking: bool = False,
        probabilities: bool = False,
        top: int = 0,
        params: SamplingParams | None = None,
        **settings: Unpack[SamplingSettings],
    ) -> Iterator[Event]:
        """The events of a reply as they happen: `Prefill`, a `Step` for each token, `Finish`.

        `prompt` is a text, or the messages of a conversation, as `Message`s or as objects such as
        `{"role": "user", "content": "Hi"}`; if the last of them is the assistant's, it is continued. A text is put into
        the model's chat template, with the `system` prompt and `template_args`, further variables of the template;
        `raw`, or a model without a template, continues it as it is. The reply goes on after `prefill`, which is not
        part of the events. A model that thinks does so before its answer, which `prefill` is the beginning of and in
        which the stop strings count; with `no_thinking` it answers at once, where its template can bring that about.

        `settings` are fields of `SamplingParams` by name, such as `temperature=0`; what is not given is what the
        model's makers recommend, as on the command line, and with the same `seed` the text is that of `llm generate`.
        `params` sets all of them at once. `probabilities` asks for those of each token, `top` for as many candidates.

        Raises:
            UsageError: a setting makes no sense, a message cannot be said, or there is no template for it.
            PromptTooLongError: the prompt does not fit into the context.
        """
        chosen = self._params(params, settings)
        is_chat = self.template is not None and not raw
        built = self._prompt(prompt, system, template_args, raw=raw, prefill=prefill, no_thinking=no_thinking)
        events = self.engine(lookup=None, chat=is_chat).stream(
            built.ids, chosen, probabilities=probabilities or top > 0, top=top, start=built.start
        )
        return map(ThinkingApart(self.tokenizer, built.start), events) if is_chat else events

    def generate(
        self,
        prompt: str | Sequence[Message | Mapping[str, object]],
        *,
        system: str | None = None,
        template_args: Mapping[str, object] | None = None,
        raw: bool = False,
        prefill: str = "",
        no_thinking: bool = False,
        probabilities: bool = False,
        top: int = 0,
        params: SamplingParams | None = None,
        **settings: Unpack[SamplingSettings],
    ) -> Reply:
        """The whole reply; all arguments and errors are those of `stream`."""
        chosen = self._params(params, settings)
        events = self.stream(
            prompt, system=system, template_args=template_args, raw=raw, prefill=prefill, no_thinking=no_thinking,
            probabilities=probabilities, top=top, params=chosen,
        )  # fmt: skip
        return collect(events, seed=chosen.seed)

    def chat(
        self,
        *,
        system: str | None = None,
        template_args: Mapping[str, object] | None = None,
        messages: Sequence[Message | Mapping[str, object]] = (),
        no_thinking: bool = False,
        params: SamplingParams | None = None,
        **settings: Unpack[SamplingSettings],
    ) -> Chat:
        """A conversation, which may go on from `messages`; settings are as for `stream`.

        Raises:
            UsageError: the model has no chat template, a setting makes no sense, or the messages are not questions
                and replies in turn.
        """
        if self.template is None:
            raise UsageError(f"{self.name} has no chat template; `generate` continues text with it.")
        before = as_messages(messages)
        if [message.role for message in before] != ["user", "assistant"] * (len(before) // 2):
            raise UsageError("A chat goes on from messages of the user and replies of the assistant, in turn.")
        conversation = Conversation(
            self.engine(lookup=None), self.tokenizer, self.template, system, template_args or {},
            no_thinking=no_thinking, messages=[*before],
        )  # fmt: skip
        return Chat(conversation, self._params(params, settings))

    def batch(
        self,
        prompts: Iterable[str | Sequence[Message | Mapping[str, object]]],
        *,
        system: str | None = None,
        template_args: Mapping[str, object] | None = None,
        raw: bool = False,
        no_thinking: bool = False,
        parallel: int | None = None,
        params: SamplingParams | None = None,
        **settings: Unpack[SamplingSettings],
    ) -> Iterator[BatchReply | LlmcliError]:
        """For each prompt its reply, or why there is none, in their order; `parallel` are answered at a time.

        Prompts and settings are as for `stream`. `parallel` is as for `batch_engine`. Prompts are taken as they are
        needed, so that they may come from a generator.

        Raises:
            UsageError: a setting makes no sense.
        """
        chosen = self._params(params, settings)
        is_chat = self.template is not None and not raw

        def request(prompt: str | Sequence[Message | Mapping[str, object]]) -> Request | LlmcliError:
            try:
                built = self._prompt(prompt, system, template_args, raw=raw, prefill="", no_thinking=no_thinking)
            except LlmcliError as error:
                return error
            return Request(tuple(built.ids), chosen, is_chat, built.start)

        return self.batch_engine(parallel=parallel, chat=is_chat).run(map(request, prompts))

    def _params(self, params: SamplingParams | None, settings: SamplingSettings) -> SamplingParams:
        if params is None:
            return recommended_params(self.generation_defaults, settings)
        if settings:
            raise UsageError(f"`params` has all settings; {', '.join(settings)} cannot be given beside it.")
        return params

    def _prompt(
        self,
        prompt: str | Sequence[Message | Mapping[str, object]],
        system: str | None,
        template_args: Mapping[str, object] | None,
        *,
        raw: bool,
        prefill: str,
        no_thinking: bool,
    ) -> ChatPrompt:
        """The tokens up to where the model goes on, which is after `prefill`."""
        template = None if raw else self.template
        asked = ReplyPrompt.make(
            self.tokenizer, template, prompt, system=system, variables=template_args, no_thinking=no_thinking
        )
        return asked.built(prefill)

    def prefix_cache(self, *, threads: int | None = None, readable: bool = False) -> PrefixCache:
        """What reads texts and gives the logits after their tokens: the fast path, or the readable model without one.

        `readable` asks for the readable model; `threads` is as for `engine`.
        """
        step = ReadableStep(self.model, "as asked") if readable else self._step(threads)
        return PrefixCache(
            self.model,
            context_length=self.config.context_length,
            vocab_size=self.tokenizer.vocab_size,
            step=step,
        )

    def _drafter(self, target: LoadedModel, threads: int | None) -> DraftModel:
        """The model as one that drafts for `target`."""
        if not same_vocabulary(self.tokenizer, target.tokenizer):
            raise UsageError(
                f"{self.name} ({self.tokenizer.vocab_size} tokens) cannot draft for {target.name} "
                f"({target.tokenizer.vocab_size}): their vocabularies differ. A smaller model of the same family can."
            )
        return DraftModel(self.prefix_cache(threads=threads))

    def batch_engine(
        self,
        *,
        parallel: int | None = None,
        context_length: int | None = None,
        threads: int | None = None,
        chat: bool = True,
    ) -> Batch:
        """For many prompts, `parallel` of which are answered at the same time, each as by an engine to the last bit.

        By default as many as a kernel takes, 16 on a CPU. Other steps answer one prompt after another, whatever
        `parallel` is.
        `context_length`, `threads` and `chat` are as for `engine`.
        """
        rows = BatchBackend(self.model, self._step(threads), parallel)
        return Batch(
            self.model,
            self.tokenizer,
            rows,
            stop_ids=self.stop_ids if chat else self.declared_stop_ids,
            stop_texts=self.turn_end.texts if chat else (),
            context_length=context_length,
        )

    def _step(self, threads: int | None) -> FastStep:
        """The fastest step of the model."""
        return fast_step(self.model, self.why_readable, threads=threads, tell=self.tell)


def load(
    name_or_path: str | Path | None = None,
    *,
    device: str = "auto",
    dtype: str = "auto",
    quantize: str | None = None,
    template: str | None = None,
    context_length: int | None = None,
    edits: Sequence[str | Path] = (),
    progress: Callable[[int, int], None] | None = None,
) -> LoadedModel:
    """Load a model: a Hugging Face folder, a GGUF file, a name in the store or on the hub, or None for the starter.

    `device` is auto, cpu, cuda, cuda:N or mps; `dtype` auto, float32, bfloat16 or float16. "auto" leaves the weights of
    a GGUF file, and those of GPTQ and AWQ, in the few bits they have where a kernel reads them, and `quantize`, "int8"
    or "int4", rounds any weights to 8 or 4 bits. `template` names one of the model's chat templates, or a file with
    another. That the weights fit into memory, and the cache of a text of `context_length` tokens beside them, is seen
    before they are read. `edits` are files or names of edits, as `llm edit` makes them, to lay over the weights.
    `progress` hears the bytes of weights read and how many there are.

    Raises:
        ModelNotFoundError: no such model, or it could not be fetched.
        CheckpointError: its files are broken, contradict each other, or are of an unsupported kind; or an edit is not
            one of this model.
        OutOfMemoryError: it does not fit.
        UsageError: it has no chat template of that name and there is no such file, it cannot be quantized so, or there
            is no such edit.
    """
    files = [find_edit(str(edit)) for edit in edits]
    checkpoint = open_checkpoint(resolve(None if name_or_path is None else str(name_or_path)))
    return load_checkpoint(
        checkpoint,
        device=device,
        dtype=dtype,
        quantize=quantize,
        template=template,
        context_length=context_length,
        edits=read_edits(checkpoint, files),
        progress=progress,
    )


def load_checkpoint(
    checkpoint: Checkpoint,
    *,
    device: str = "auto",
    dtype: str = "auto",
    quantize: str | None = None,
    template: str | None = None,
    context_length: int | None = None,
    edits: Sequence[Edit] = (),
    progress: Callable[[int, int], None] | None = None,
    readable: bool = False,
    may_quantize: bool = True,
    heavy: int = _HEAVY,
    large: int = _LARGE,
    tell: Callable[[str], None] = _warn,
) -> LoadedModel:
    """Like `load`, for a checkpoint whose headers have been read.

    `readable` keeps weights in a type the readable model is fast in, where nothing else was asked for: only for what
    computes with that model alone. Where the model does not fit, `may_quantize` says whether the caller could quantize
    it. From `heavy` bytes of dense weights on, a note says what would make replies faster; of more than `large` bytes
    of weights, none are read before the tokenizer is known to fit. `tell` hears a line where a kernel turns out not to
    be used.
    """
    check_template_file(template)
    where = choose_device(device)
    kind = choose_dtype(dtype, where, checkpoint.stored_dtype())
    reason = why_readable(checkpoint.config, where)
    packing = choose_packing(quantize, where)
    if packing is None and dtype == "auto" and not reason and not readable:
        packing = default_packing(checkpoint, where)
    # The tokenizer is built while the weights are read.
    with ThreadPoolExecutor(max_workers=1) as pool:
        text = pool.submit(checkpoint.read_text_parts)
        if sum(map(checkpoint.stored_bytes, checkpoint.sources)) > large:
            # Before so much is read that waiting for the tokenizer is nothing beside it.
            _check_vocabulary(checkpoint, text.result())
        # Threads read into the parameters, which where the caller is in inference mode they could not change.
        with torch.inference_mode(mode=False):
            model = load_weights(
                checkpoint,
                where,
                kind,
                progress,
                packing=packing,
                context=context_length,
                may_pack=may_quantize and where.type in _PACKED_ON,
            )
        parts = text.result()
    _check_vocabulary(checkpoint, parts)
    model.vocabulary = parts.tokenizer.vocab_size
    apply_edits(model, edits)
    chosen, text_notes = parts.template(template), parts.notes
    if chosen is not None and NO_STOP_TOKEN in text_notes:
        text_notes = turn_end(parts.tokenizer, chosen).notes(text_notes)
    return LoadedModel(
        name=checkpoint.name,
        source=checkpoint.path,
        config=checkpoint.config,
        model=model,
        tokenizer=parts.tokenizer,
        template=chosen,
        declared_stop_ids=parts.stop_ids,
        generation_defaults=parts.generation_defaults,
        notes=checkpoint.notes
        + text_notes
        + (_hint(model, heavy) if packing == "stored" else ())
        + tuple(f"Edited: {edit.prompt.rstrip()} -> {edit.target.strip()}." for edit in edits),
        packing=packing,
        why_readable=reason,
        edits=tuple(edits),
        tell=tell,
    )


def why_readable(config: ModelConfig, device: torch.device) -> str:
    """Why no kernel can run such a model there; empty if one can."""
    return why_no_kernel(config, device) or ""


def _check_vocabulary(checkpoint: Checkpoint, parts: TextParts) -> None:
    if parts.tokenizer.vocab_size > checkpoint.config.vocab_size:
        raise CheckpointError(
            f"{checkpoint.path}: the tokenizer has {parts.tokenizer.vocab_size} tokens, "
            f"but the model has embeddings for {checkpoint.config.vocab_size}."
        )


def _hint(model: Transformer, heavy: int) -> tuple[str, ...]:
    dense = sum(parameter.nbytes for parameter in model.parameters())
    if dense < heavy:
        return ()
    return (
        f"The weights take {dense / 2**30:.1f} GiB, and the fewer bytes, the faster each token: --quantize int8 halves "
        "them, --quantize int4 leaves a third. Each start then packs them anew, which takes longer than a short reply "
        "saves; it pays for a chat or long replies.",
    )


def choose_packing(quantize: str | None, device: torch.device) -> Packing | None:
    """How weights are packed where `quantize` is asked for, or nothing.

    Raises:
        UsageError: that is not possible, or not there.
    """
    match quantize:
        case None:
            return None
        case "int8" | "int4":
            if device.type not in _PACKED_ON:
                raise UsageError(
                    f"Weights can be quantised for CPU and CUDA only, not for {device}; give --device cpu too."
                )
            return quantize
        case _:
            raise UsageError(f"Weights cannot be quantised to {quantize!r}; use int8 or int4.")
