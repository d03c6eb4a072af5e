"""The section of the report that compares the supernet's scores with the truth."""

from __future__ import annotations

from spos_cli.report.elements import Html, chart, format_percent, format_signed, paragraph, section, table
from spos_cli.report.findings import TruthComparison


def compare_with_truth(truth: TruthComparison) -> Html:
    """Return the chart of known stand-alone accuracy against the supernet's score, and what searches find."""
    text = (
        f"The supernet’s scores of {truth.scored:,} networks, of {truth.networks:,} whose stand-alone accuracy is known"
        " from elsewhere. Kendall’s τ is 1 for the same ranking and 0 for chance. A supernet whose τ is below that of"
        " FLOPs ranks worse than a FLOPs counter. The last column is the τ of one stand-alone training with the others"
        " of the same networks."
    )
    agreement = [
        [
            row.part,
            f"{row.networks:,}",
            format_signed(row.kendall[0]),
            f"{format_signed(row.kendall[1])} to {format_signed(row.kendall[2])}",
            _signed_or_dash(row.kendall_of_flops),
            _signed_or_dash(row.one_training),
        ]
        for row in truth.agreement
    ]
    picks = [
        [
            pick.choice,
            format_percent(pick.accuracy, 2),
            f"{100 * pick.regret:.2f} points",
            format_percent(pick.better_than, 1),
        ]
        for pick in truth.picks
    ]
    under = f" {truth.limits}" if truth.limits else ""
    return section(
        "truth",
        "Against the truth",
        paragraph(text),
        chart("truth-chart", "Known stand-alone top-1 against one-shot top-1"),
        table(["networks:", "number", "τ", "95 % interval", "τ of FLOPs", "of one training"], agreement),
        paragraph(
            f"What each way of choosing a network{under} finds. The regret is how much better the best network is;"
            " searches are repeated with several seeds, and their median counts."
        ),
        table(["choice:", "stand-alone top-1", "regret", "better than"], picks),
    )


def _signed_or_dash(value: float | None) -> str:
    return "–" if value is None else format_signed(value)
