"""`llm show --plan`: a model on several GPUs, as lines of text and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.text import Text

from llmcli.sizes import size
from llmcli.views.terminal.sanitize import visible

if TYPE_CHECKING:
    from llmcli.checkpoint.split_plan import SplitPlan


def plan_text(name: str, plan: SplitPlan, counts: str) -> Text:
    """The plan with the formula of its estimate; `counts` are the numbers of ranks that are possible."""
    needed, cost, card = plan.needed, plan.cost, plan.assumed
    lines = [
        f"{visible(name)} on {plan.cards.count} x {size(plan.cards.memory)}: it fits",
        f"memory a rank    {size(needed.total)}: weights {size(needed.weights)} ({plan.weights}), KV cache "
        f"{size(needed.cache)} for {plan.context} tokens, working memory {size(needed.working)}",
        f"longest context  {plan.longest_context} tokens",
        f"a token          reads {size(cost.read_bytes)} on the busiest rank, {cost.collectives} sums over ranks, "
        f"{size(cost.link_bytes)} over each link",
        f"estimate         {cost.tokens_per_s:.3g} tokens/s at most, one text: max({cost.read_bytes:.3g} B / "
        f"{card.bandwidth:.3g} B/s, {cost.operations:.3g} / {card.operations:.3g} operations/s) + sums x latency + "
        "link bytes / link",
        f"assumed          {card.name}; see llm help scale",
        f"ranks            {counts}",
    ]
    return Text("\n".join(lines))


def plan_json(name: str, plan: SplitPlan) -> dict[str, object]:
    """The plan as plain JSON values."""
    return {"schema": "llmcli.plan/1", "model": name} | asdict(plan) | {"tokens_per_s": plan.cost.tokens_per_s}
