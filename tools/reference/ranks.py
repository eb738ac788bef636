"""Reference values for bench/signed_rank, mann_whitney, holm and proportion, from SciPy.

    python3 tools/reference/ranks.py > bench/tests/data/ranks.json

Needs numpy and scipy. The Hodges-Lehmann interval isn't in SciPy: its bounds come from inverting SciPy's exact
signed-rank test over the Walsh averages, which is its definition. Its cases have no ties; without ties SciPy's
permutation-free exact p value is the textbook's.
"""

import itertools
import json

import numpy as np
from scipy import stats

random = np.random.default_rng(20261124)


def rounded(values):
    """Few digits, so that the file is short and JSON carries them exactly; all magnitudes different."""
    values = np.round(np.asarray(values), 5)
    assert len(set(np.abs(values))) == len(values) and not np.any(values == 0)
    return values.tolist()


def hodges_lehmann(d, level):
    n = len(d)
    walsh = sorted((d[i] + d[j]) / 2 for i in range(n) for j in range(i, n))
    tail = (1 - level) / 2

    # A centre is inside unless the one-sided test of d - centre rejects it at `tail`. Between two neighbouring averages
    # the test is constant, so try the middles of the gaps.
    def inside(centre):
        shifted = np.asarray(d) - centre
        return all(stats.wilcoxon(shifted, alternative=side, method="exact").pvalue > tail for side in ("greater", "less"))

    gaps = [walsh[0] - 1] + [(a + b) / 2 for a, b in itertools.pairwise(walsh)] + [walsh[-1] + 1]
    accepted = [i for i, centre in enumerate(gaps) if inside(centre)]
    low = None if accepted[0] == 0 else walsh[accepted[0] - 1]
    high = None if accepted[-1] == len(gaps) - 1 else walsh[accepted[-1]]
    return {"estimate": float(np.median(walsh)), "level": level, "low": low, "high": high}


def signed_rank():
    cases = []
    for n, shift in [(4, 0.5), (6, -0.4), (8, 0.0), (8, 1.5), (9, 2.0), (16, 0.3), (25, -0.2), (48, 0.25), (64, 0.1)]:
        d = rounded(random.normal(shift, 1, n))
        case = {"differences": d, "p": stats.wilcoxon(d, alternative="greater", method="exact").pvalue}
        if n <= 25:
            case["hodges_lehmann"] = [hodges_lehmann(d, level) for level in (0.9, 0.95)]
        cases.append(case)
    d = rounded(random.normal(0.15, 1, 100))
    cases.append({"differences": d, "p": stats.wilcoxon(d, alternative="greater", method="approx", correction=True).pvalue})
    return cases


def signed_rank_ties():
    """Exact p values under ties: all sign patterns of the average ranks."""
    cases = []
    for d in ([1, 1, 2, 2, 3, -1, 4, 5], [2, 2, 2, 2, -2, 2, 2, 2, 2, 2], [1, -1, 2, -2, 3, -3], [0, 0, 3, 1, 1, -2, 5, 4, 4]):
        kept = np.array([x for x in d if x != 0], float)
        ranks = stats.rankdata(np.abs(kept))
        observed = ranks[kept > 0].sum()
        sums = [sum(r for r, s in zip(ranks, signs) if s) for signs in itertools.product((0, 1), repeat=len(kept))]
        cases.append({"differences": d, "p": float(np.mean(np.array(sums) >= observed))})
    return cases


def mann_whitney():
    cases = []
    for m, n, shift in [(3, 4, 1.0), (8, 8, 0.0), (8, 8, 1.2), (10, 16, 0.5), (30, 50, 0.3), (50, 50, -0.4)]:
        a, b = rounded(random.normal(0, 1, m)), rounded(random.normal(shift, 1, n))
        cases.append({"a": a, "b": b, "p": stats.mannwhitneyu(a, b, method="exact").pvalue})
    for a, b in (([1, 2, 2, 3, 5], [2, 4, 4, 6, 7, 7]), ([1, 1, 1], [1, 1, 1, 1, 2])):
        cases.append({"a": a, "b": b, "p": stats.mannwhitneyu(a, b, method="asymptotic").pvalue})
    a, b = rounded(random.normal(0, 1, 60)), rounded(random.normal(0.3, 1, 55))
    cases.append({"a": a, "b": b, "p": stats.mannwhitneyu(a, b, method="asymptotic").pvalue})
    return cases


def proportions():
    cases = []
    for count, n, level in [(0, 300, 0.95), (1, 300, 0.95), (3, 3, 0.95), (57, 60, 0.9), (950, 1000, 0.99), (0, 1, 0.95)]:
        i = stats.binomtest(count, n).proportion_ci(level, method="exact")
        cases.append({"count": count, "n": n, "level": level, "low": i.low, "high": i.high})
    return cases


def block(name, cases):
    return f'  "{name}": [\n' + ",\n".join("    " + json.dumps(c) for c in cases) + "\n  ]"


print("{\n" + ",\n".join([block("signed_rank", signed_rank()), block("signed_rank_ties", signed_rank_ties()),
                          block("mann_whitney", mann_whitney()), block("proportion", proportions())]) + "\n}")
