"""A drill as the table of docs/availability.md; only it is written between two marks."""

from hapredict.control.show import moment
from hapredict.drill.outcome import Drill, Outcome

BEGIN = "<!-- drills: begin -->"
END = "<!-- drills: end -->"


def markdown(drill: Drill, where: str) -> str:
    """The table, and the sums below it. `where` is the machine, in words."""
    right = f"{drill.requests - drill.lost:,} of {drill.requests:,} requests were answered rightly"
    sums = [
        f"Level {drill.level}: **{drill.verdict}**, for an objective of {drill.objective:g} %.",
        f"{right}: at least {100 * drill.interval[0]:.4f} % with 95 % confidence.",
        _mean(drill),
        f"Measured {moment(drill.at_s)[:10]} on {where}, in {drill.wall_s:.0f} s.",
    ]
    lines = [
        "| fault | what was done | requests | lost | slowest answer | as before after | verdict |",
        "|---|---|---|---|---|---|---|",
        *(_line(one, drill.objective) for one in drill.outcomes),
        *(f"| {name} | left out: {why} | | | | | |" for name, why in drill.skipped.items()),
        "",
        " ".join(filter(None, sums)),
    ]
    return "\n".join(lines)


def replaced(document: str, table: str) -> str:
    """The document with the table between its marks. Raises ValueError if it lacks them."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the document has no {BEGIN} and {END} to write between")
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def _line(one: Outcome, objective: float) -> str:
    asked = one.during.requests + one.after.requests
    slowest_s = max(one.during.worst_ms, one.after.worst_ms) / 1e3
    back = "never" if one.restore_s is None else f"{one.restore_s:.1f} s"
    return (
        f"| {one.fault} | {one.says} | {asked:,} | {one.lost:,} | {slowest_s:.2f} s | {back} "
        f"| {one.verdict(objective)} |"
    )


def _mean(drill: Drill) -> str:
    mean_s = drill.restore_mean_s
    return "" if mean_s is None else f"Mean time to restore: {mean_s:.1f} s."
