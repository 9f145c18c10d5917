"""All options of `llm generate`."""

from __future__ import annotations

from dataclasses import dataclass

from llmcli.commands.shared.options.form import ChoiceOptions, FormOptions
from llmcli.commands.shared.options.model import ModelOptions
from llmcli.commands.shared.options.output import ReplyOutputOptions
from llmcli.commands.shared.options.prompt import PromptOptions
from llmcli.commands.shared.options.report import ReportOptions
from llmcli.commands.shared.options.sampling import SamplingOptions
from llmcli.commands.shared.options.saving import SavingOptions
from llmcli.commands.shared.options.speculation import SpeculationOptions


@dataclass(frozen=True)
class GenerateOptions:
    """The options of one `llm generate` by group."""

    model: ModelOptions
    prompt: PromptOptions
    sampling: SamplingOptions
    form: FormOptions
    choice: ChoiceOptions
    report: ReportOptions
    speculation: SpeculationOptions
    output: ReplyOutputOptions
    saving: SavingOptions
