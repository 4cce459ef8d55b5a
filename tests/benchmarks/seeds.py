"""The finding of several finished runs side by side: `python tests/benchmarks/seeds.py results/*/summary.json`."""

import json
import sys
from pathlib import Path
from statistics import fmean
from typing import Any


def rows(summary: dict[str, Any]) -> dict[str, str]:
    """What the README's table says of one run."""

    def mean(model: str, group: str) -> float:
        return fmean(summary["accuracy"][model][task]["value"] for task in summary["tasks"][group])

    groups = {"train_domain": "trained task", "transfer": "transfer", "unseen": "unseen"}
    found = {
        f"{name}: base / SFT / RL": " / ".join(f"{mean(model, group):.2f}" for model in ("base", "sft", "rl"))
        for group, name in groups.items()
    }
    specific = summary["crosscoders"]["base-sft-rl"]["specific_features"]
    found["specific features, joint: SFT / RL"] = f"{specific['sft']} / {specific['rl']}"
    found["localised features"] = str(len(summary["localisation"]["features"]))
    for edit, block in summary["interventions"].items():
        for name, scope in (("transfer", block), ("unseen", block["unseen"])):
            matched = scope["matched_random"]
            low, high = (f"{matched[key]:+.2f}" for key in ("q05", "q95"))
            found[f"{edit}, {name}"] = f"**{scope['effect']:+.2f}** [{scope['low']:+.2f}, {scope['high']:+.2f}]"
            found[f"{edit}, {name}: matched sets, 5% to 95%"] = f"{low} to {high}"
            found[f"{edit}, {name}: whole layer patched"] = f"{scope['ceiling']:+.2f}"
        turned = block["turned"]["transfer"]
        share = f"{turned['statistic']:.2f} (matched sets, 95%: {turned['matched_random']['q95']:.2f})"
        found[f"{edit}: of the way to {turned['towards']} at the decision"] = share
        if len(block["fits"]) > 1:
            effects = " / ".join(f"{fit['effect']:+.2f}" for fit in block["fits"])
            found[f"{edit}, transfer: by seed of the crosscoder"] = effects
    for name, method in summary["comparison"]["methods"].items():
        ranks = "" if method["rank_correlation"] is None else f", rho {method['rank_correlation']:.2f}"
        found[f"chosen by {name}: transfer{', rank correlation with the oracle' * bool(ranks)}"] = (
            f"{method['effects']['transfer']['effect']:+.2f}{ranks}"
        )
    found["base with itself: features outside NRN 0.4-0.6"] = str(summary["nulls"]["base_base"]["outside"])
    null = summary["nulls"]["interventions"]
    found["transplant from noised base, transfer"] = f"{null['effect']:+.2f} [{null['low']:+.2f}, {null['high']:+.2f}]"
    for name, verdict in summary["verdicts"].items():
        found[f"verdict: `{name}`"] = verdict["verdict"]
    return found


def main() -> None:
    """Print the table."""
    summaries = [json.loads(Path(path).read_text()) for path in sys.argv[1:]]
    tables = [rows(summary) for summary in summaries]
    print("| |" + "".join(f" seed {summary['seed']} |" for summary in summaries))
    print("|---|" + "---|" * len(tables))
    for name in tables[0]:
        print(f"| {name} |" + "".join(f" {table[name]} |" for table in tables))


if __name__ == "__main__":
    main()
