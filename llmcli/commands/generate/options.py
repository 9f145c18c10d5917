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
from llmcli.commands.shared.page_file import PAGE_CANDIDATES


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

    @property
    def candidates(self) -> int:
        """How many candidates of each token are needed: those of --top, and for a page at least `PAGE_CANDIDATES`."""
        return max(self.report.top, PAGE_CANDIDATES) if self.output.wants_page else self.report.top
