#!/usr/bin/env bash
# The gate as one command, for any CI: builds this revision and the one it branched off, runs a suite with both, and
# compares. Red means a real regression; the report says which case, which metric, and for memory which tag.
#
#   ci/gate.sh                               the smoke suite, against where this branch left origin/main
#   ci/gate.sh --base REV --suite FILE       against another revision, with another suite
#   ci/gate.sh --out DIR                     where the reports go (default: build/gate)
#   ci/gate.sh --head BUILD_DIRECTORY        this revision is built already
#   ci/gate.sh --exact-only                  leave timings out
#   ci/gate.sh --report-timings              compare them, but let them fail nothing
#
# On the base branch itself, where there is nothing to merge, the base is the commit before.
#
# Left in DIR: comment.md (for the pull request), report.html, junit.xml and findings.csv of what is exact, timings.xml and
# timings.csv, head.json, base.json, status.
#
# What decides:
#   - exact metrics (bytes, counts, digests): against the suite's accepted baseline in baselines/exact, where the base
#     revision has one too, so that a change is accepted in review; else against the base revision's own run. To the byte.
#   - timings: both builds interleaved (`plimsoll ab`), where the program has it. A stored time proves nothing here.
#
# Exit status as of `plimsoll gate`: 0 fine, 1 regression, 2 usage, 3 cannot compare, 4 inconclusive (--strict), 5 a case
# broke, 6 the gate's own control failed.
#
# PLIMSOLL_AB_BUDGET_S bounds the seconds of the timings (900). PLIMSOLL_CMAKE_OPTIONS adds options to both builds.
# PLIMSOLL_GATE_CACHE (default: build/gate-cache) keeps the base revision's build between runs. GITHUB_ACTIONS=true adds
# annotations.
set -euo pipefail
cd "$(dirname "$0")/.."

suite=smoke
base=
head_build=
out=build/gate
timings=gate
usage() {
    echo "gate.sh: $1; usage: ci/gate.sh [--base REV] [--suite NAME|FILE] [--out DIR] [--head BUILD_DIRECTORY] [--exact-only | --report-timings]" >&2
    exit 2
}
while [ $# -gt 0 ]; do
    case $1 in
    --base | --suite | --out | --head)
        [ $# -gt 1 ] || usage "$1 needs a value"
        case $1 in
        --base) base=$2 ;;
        --suite) suite=$2 ;;
        --out) out=$2 ;;
        --head) head_build=$2 ;;
        esac
        shift 2
        ;;
    --exact-only)
        timings=no
        shift
        ;;
    --report-timings)
        timings=report
        shift
        ;;
    *) usage "unknown argument '$1'" ;;
    esac
done

cache=${PLIMSOLL_GATE_CACHE:-build/gate-cache}
mkdir -p "$out" "$cache"
out=$(cd "$out" && pwd)
cache=$(cd "$cache" && pwd)
step() {
    printf '\n== %s\n' "$*"
}

# ---- the revision to compare with: where this branch left the base ----

given=$base
if [ -z "$base" ]; then
    for candidate in origin/HEAD origin/main origin/master main master; do
        if git rev-parse -q --verify "$candidate^{commit}" >/dev/null; then
            base=$candidate
            break
        fi
    done
    [ -n "$base" ] || usage "no origin/main here; name the base with --base REV"
fi
git rev-parse -q --verify "$base^{commit}" >/dev/null || usage "no revision '$base' here (a shallow clone? fetch it first)"
base_commit=$(git merge-base HEAD "$base") ||
    usage "HEAD and '$base' have no common ancestor here (a shallow clone? fetch with full history)"
if [ -z "$given" ] && [ "$base_commit" = "$(git rev-parse HEAD)" ]; then
    base=HEAD~1
    base_commit=$(git rev-parse -q --verify HEAD~1) || usage "there is no commit before HEAD here to compare with"
fi
echo "gate: $(git rev-parse --short HEAD) against $(git rev-parse --short "$base_commit") ($base)"

# ---- two builds with the same options ----

build() {    # build SOURCE BUILD_DIRECTORY
    # shellcheck disable=SC2086
    cmake -S "$1" -B "$2" -G Ninja -DCMAKE_BUILD_TYPE=Release -DBUILD_TESTING=OFF ${PLIMSOLL_CMAKE_OPTIONS:-} >/dev/null
    cmake --build "$2" --target plimsoll >"$2/build.log" 2>&1 || {
        tail -n 40 "$2/build.log" >&2
        echo "gate.sh: $1 does not build" >&2
        exit 2
    }
}

if [ -n "$head_build" ]; then
    [ -x "$head_build/plimsoll" ] || usage "there is no program plimsoll in $head_build"
    head=$(cd "$head_build" && pwd)/plimsoll
else
    step "build of this revision"
    build . "$out/head-build"
    head=$out/head-build/plimsoll
fi

step "build of the base"
base_build=$cache/$base_commit
base_source=$cache/source
if [ ! -x "$base_build/plimsoll" ]; then
    git worktree remove --force "$base_source" 2>/dev/null || rm -rf "$base_source"
    git worktree prune
    git worktree add --detach "$base_source" "$base_commit" >/dev/null 2>&1
    # Builds of older bases only take room.
    find "$cache" -mindepth 1 -maxdepth 1 -type d ! -name source ! -name "$base_commit" -exec rm -rf {} +
    build "$base_source" "$base_build"
    git worktree remove --force "$base_source"
fi

# ---- both run the head's suite ----

run() {    # run PROGRAM RESULT; a case that breaks (5) is for the comparison to judge
    local status=0
    "$1" run "$suite" --quiet --output "$2" >"$2.txt" 2>&1 || status=$?
    if [ "$status" != 0 ] && [ "$status" != 5 ]; then
        tail -n 20 "$2.txt" >&2
        return "$status"
    fi
}

step "run of this revision"
run "$head" "$out/head.json" || exit 2

suite_name=$(sed -n 's/.*"suite": *{ *"name": *"\([^"]*\)".*/\1/p' "$out/head.json" | head -n 1)
formats=(--junit "$out/junit.xml" --csv "$out/findings.csv")
timing_formats=(--junit "$out/timings.xml" --csv "$out/timings.csv")
if [ "${GITHUB_ACTIONS:-}" = true ]; then
    formats+=(--github)
    timing_formats+=(--github)
fi
annotations() {    # annotations FILE: they are for the log, not for the comment
    [ "${GITHUB_ACTIONS:-}" = true ] || return 0
    grep '^::' "$1" || true
    sed -i '/^::/d' "$1"
}

# Which status wins when several apply: 6, 2, 3, 1, 5, 4.
status=0
worst() {
    local s
    for s in 6 2 3 1 5 4; do
        if [ "$status" = "$s" ] || [ "$1" = "$s" ]; then
            status=$s
            return
        fi
    done
}

step "memory and counts"
baseline=baselines/exact/$suite_name.json
verdict=0
if [ -f "$baseline" ] && git cat-file -e "$base_commit:$baseline" 2>/dev/null; then
    "$head" gate "$out/head.json" --baselines baselines --exact-only || verdict=$?
    "$head" gate "$out/head.json" --baselines baselines --exact-only --markdown "${formats[@]}" >"$out/comment.md" || true
    "$head" report "$out/head.json" --baselines baselines --output "$out/report.html" || true
else
    step "run of the base (no accepted baseline of suite $suite_name)"
    run "$base_build/plimsoll" "$out/base.json" || exit 2
    "$head" compare "$out/base.json" "$out/head.json" --exact-only || verdict=$?
    "$head" compare "$out/base.json" "$out/head.json" --exact-only --markdown "${formats[@]}" >"$out/comment.md" || true
    "$head" report "$out/head.json" --baseline "$out/base.json" --output "$out/report.html" || true
fi
annotations "$out/comment.md"
worst "$verdict"

# Builds too far apart cannot be measured together, which `ab` says with 3: timings are then left out, not failed.
if [ "$timings" != no ] && "$head" ab --help >/dev/null 2>&1; then
    step "timings, both builds interleaved"
    verdict=0
    # What is exact was judged above: a rise that this change accepts into the baseline must not fail here.
    "$head" ab --timings-only --a "$base_build/plimsoll" --b "$head" "$suite" --budget-s "${PLIMSOLL_AB_BUDGET_S:-900}" --quiet --markdown \
        "${timing_formats[@]}" >"$out/timings.md" || verdict=$?
    annotations "$out/timings.md"
    cat "$out/timings.md"
    { echo; cat "$out/timings.md"; } >>"$out/comment.md"
    if [ "$verdict" = 3 ]; then
        echo "timings were not compared: the two builds cannot be measured together"
    elif [ "$timings" = report ] && [ "$verdict" != 6 ]; then
        echo "timings are reported, not gated (they would give $verdict)"
    else
        worst "$verdict"
    fi
else
    printf '\n_Timings were not compared._\n' >>"$out/comment.md"
fi

echo "$status" >"$out/status"
step "exit status $status; reports are in $out"
exit "$status"
