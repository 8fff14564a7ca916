"""The ledger of claims: its verdicts, its runs and how they are made, and its cards."""

import json
import math
import re
import subprocess
import sys

import pytest
import torch
from scipy import stats

from lessons.kit import places
from lessons.kit.data.named import data_set
from lessons.kit.errors import LessonsError
from lessons.kit.guard import held
from lessons.kit.training import claims as facade
from lessons.kit.training import ledger, making, recorded
from lessons.kit.training.verdict import VERDICTS, interval, judge, resamplings, spread

TOML = """
[arms.plain]
title = "plain"
system = "tiny"
data = "four_scenes"
minutes = 1.0

[arms.quiet]
title = "quiet"
system = "tiny"
data = "four_scenes"
options = { noise = 0.0 }
changes = { steps = 8, evaluations = 1 }
recorded = "quiet_one"
minutes = 2.0

[arms.wide]
title = "wide"
system = "tiny"
data = "four_scenes"
options = { width = 6 }
held_out = "scenes:2"
minutes = 3.0

[tuning.width]
says = "a width"
arms = ["wide"]
measure = "score"
seed = 100
priority = 2

[claims.noise]
says = "Noise helps."
lesson = "04"
arms = ["plain", "quiet"]
measure = "score"
margin = 0.01
seeds = 2
priority = 2
mechanism = { says = "the loss is higher", measure = "loss", of = "difference", least = 0.0 }
published = "Somebody 2020: AP 1"

[claims.area]
says = "Noise makes large masks."
lesson = "05"
arms = ["quiet", "plain"]
measure = "area - score"
better = "lower"
margin = 0.5
seeds = 1
priority = 1
"""


@pytest.fixture
def claims(folder, monkeypatch):
    """A small ledger of lessons.tiny, whose scores are drawn again as if they were main ones."""
    (folder / "claims.toml").write_text(TOML)
    (folder / "runs.toml").write_text("")
    monkeypatch.setattr(making, "MAIN_SCORES", ("score",))
    monkeypatch.setattr(places, "ROOT", folder.parent)
    (folder.parent / "notebooks").mkdir()
    return ledger.claims()


def arm(name):
    arms = [*ledger.claims().values(), *ledger.tunings().values()]
    return next(arm for each in arms for arm in each.arms if arm.name == name)


def written(name, **values):
    """Runs of an arm, made up: each seed's scores."""
    runs = [
        {"seed": seed, "scores": scores, "checks": {}, "losses": {}, "device": "cpu, 1 thread"}
        for seed, scores in values["seeds"].items()
    ]
    path = ledger.runs_file(arm(name))
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"settings": values.get("settings", {}), "runs": runs}))


# ---------------------------------------------------------------- the verdict


@pytest.mark.parametrize(
    "differences, margin, word",
    [
        ([], 0.01, "cannot tell"),
        ([0.3], 0.01, "cannot tell"),
        ([0.10, 0.11, 0.12], 0.01, "shown"),
        ([-0.10, -0.11, -0.12], 0.01, "opposite"),
        ([0.10, -0.11, 0.12], 0.01, "cannot tell"),
        ([0.001, -0.001, 0.0005], 0.01, "too small to matter"),
        ([0.002, 0.0021, 0.0022], 0.01, "too small to matter"),  # above 0, and within the margin
        ([0.009, 0.0105, 0.012], 0.01, "shown"),
        ([0.005, 0.005, 0.005], 0.01, "too small to matter"),
        ([0.005, 0.005], 0.01, "cannot tell"),  # two pairs are too few
        ([0.02, 0.02, 0.02], 0.01, "shown"),
        ([0.02, 0.02], 0.01, "cannot tell"),
    ],
)
def test_the_verdict_is_made_of_the_interval_and_the_margin(differences, margin, word):
    verdict = judge(differences, margin)
    assert verdict.word == word and word in VERDICTS and verdict.pairs == len(differences)
    assert judge([-d for d in differences], margin).word == {
        "shown": "opposite",
        "opposite": "shown",
    }.get(word, word)
    if len(differences) < 2:
        assert math.isnan(verdict.low) and math.isnan(verdict.high)
    else:
        assert verdict.low <= verdict.mean <= verdict.high


def test_the_interval_is_scipys():
    differences = [0.013, -0.002, 0.021, 0.008]
    mean = sum(differences) / 4
    expected = stats.t.interval(0.95, 3, loc=mean, scale=stats.sem(differences))
    assert interval(differences) == pytest.approx(expected)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_in_19_of_20_experiments_the_interval_holds_the_true_difference(seeds):
    generator = torch.Generator().manual_seed(seeds)
    experiments = (0.02 + 0.013 * torch.randn(4000, seeds, generator=generator)).tolist()
    held_it = [low <= 0.02 <= high for low, high in map(interval, experiments)]
    assert abs(sum(held_it) / 4000 - 0.95) < 0.012  # 3.5 standard deviations


def test_noise_alone_is_seldom_taken_for_a_claim():
    generator = torch.Generator().manual_seed(0)
    noise = (0.013 * torch.randn(4000, 3, generator=generator)).tolist()
    words = [judge(differences, 0.001).word for differences in noise]
    assert 0.035 < 1 - words.count("cannot tell") / 4000 < 0.065


@pytest.mark.parametrize("margin", [0, -1, math.nan, math.inf])
def test_a_margin_is_a_number_above_0(margin):
    with pytest.raises(ValueError, match="margin must be above 0"):
        judge([0.1, 0.2], margin)


def test_a_difference_is_a_number():
    with pytest.raises(ValueError, match="differences must be finite"):
        judge([0.1, math.nan], 0.1)


def test_every_run_draws_the_same_scenes_so_that_the_spread_is_paired():
    drawn = resamplings(50)
    assert drawn == resamplings(50) != resamplings(51)
    assert all(len(row) == 50 and set(row) <= set(range(50)) for row in drawn)
    assert len({tuple(row) for row in drawn}) == len(drawn)
    scenes = torch.randn(50, generator=torch.Generator().manual_seed(1))
    means = [[scenes[row].mean().item() for row in drawn]]
    expected = scenes.std().item() / 50**0.5
    assert spread(means) == pytest.approx(expected, rel=0.3)
    assert spread([[0.5 + m for m in means[0]], *means]) == pytest.approx(spread(means))
    assert math.isnan(spread([])) and math.isnan(spread([[math.nan] * 40]))


# ---------------------------------------------------------------- the file and its runs


def test_the_ledger_is_read_in_the_order_of_its_priorities(claims):
    assert list(claims) == ["area", "noise"]
    noise = claims["noise"]
    assert [arm.name for arm in noise.arms] == ["plain", "quiet"] and noise.better == "higher"
    plan = noise.arms[1].plan(3)
    assert (plan.system, plan.seed, plan.weights, plan.budget) == ("tiny", 3, False, "full")
    assert plan.recipe().budget("full").steps == 8


@pytest.mark.parametrize(
    "old, new, said",
    [
        ('arms = ["plain", "quiet"]', 'arms = ["plain", "loud"]', "claims noise: KeyError"),
        ('arms = ["plain", "quiet"]', 'arms = ["plain"]', "compares two arms, see noise"),
        ('arms = ["plain", "quiet"]', 'arms = ["plain", "plain"]', "compares two arms"),
        ('better = "lower"', 'better = "less"', "is higher or lower, not 'less', see area"),
        ("margin = 0.01", "margin = 0.0", "margin above 0"),
        ("margin = 0.01", 'margin = 0.01\ntitles = ["one"]', "has two titles"),
        ("least = 0.0", "most = 0.0, least = 0.0", "mechanism of says"),
        ('title = "plain"', 'name_ = "plain"', "an arm cannot be read"),
        ("seeds = 2", "seeds = 2\nseed = 3", "claims noise"),
    ],
)
def test_a_claim_that_cannot_be_judged_is_named(claims, folder, old, new, said):
    assert old in TOML
    (folder / "claims.toml").write_text(TOML.replace(old, new, 1) + "\n")
    with pytest.raises(LessonsError, match=said):
        ledger.claims()


def test_an_unknown_claim_is_named_with_what_is_near(claims):
    with pytest.raises(LessonsError, match="no claim 'noises', do you mean noise"):
        facade.claim("noises")
    with pytest.raises(LessonsError, match="no claim 'zzz': lessons claims lists them"):
        facade.claim("zzz")


def test_pairs_are_those_of_one_seed_and_one_kind_of_machine(claims):
    written("plain", seeds={0: {"score": 0.5}, 1: {"score": 0.6}, 2: {"score": 0.7}})
    written("quiet", seeds={0: {"score": 0.45}, 2: {"score": None}, 3: {"score": 0.1}})
    row = ledger.row(claims["noise"])
    assert row.values == {0: (0.5, 0.45)} and row.verdict.word == "cannot tell"
    path = ledger.runs_file(arm("quiet"))
    path.write_text(path.read_text().replace("cpu, 1 thread", "NVIDIA"))
    assert ledger.row(claims["noise"]).values == {}


def test_the_spread_over_scenes_is_that_of_paired_drawings(claims):
    drawn = [0.5, 0.52, None, 0.48]
    written("plain", seeds={0: {"score": 0.5}})
    written("quiet", seeds={0: {"score": 0.4}})
    for name, shift in (("plain", 0.1), ("quiet", 0.0)):
        path = ledger.runs_file(arm(name))
        kept = json.loads(path.read_text())
        numbers = [None if n is None else n + shift for n in drawn]
        numbers[0] += 0.03 if name == "plain" else 0.0
        kept["runs"][0]["resampled"] = {"score": numbers}
        path.write_text(json.dumps(kept))
    expected = torch.tensor([0.13, 0.1, 0.1]).std().item()  # the scenes' own spread is paired away
    assert ledger.row(claims["noise"]).scenes == pytest.approx(expected)


def test_what_is_lower_is_better_where_the_claim_says_so(claims):
    written("plain", seeds={s: {"score": 0.0, "area": 3.0 + s} for s in range(3)})
    written("quiet", seeds={s: {"score": 1.0, "area": 2.0 + s} for s in range(3)})
    row = ledger.row(claims["area"])  # area − score: 1 + s against 3 + s
    assert row.values[1] == (2.0, 4.0) and row.verdict.mean == 2.0
    assert row.verdict.word == "shown"


def test_whether_the_mechanism_acted_is_told_by_its_own_number(claims):
    assert ledger.row(claims["noise"]).acted is None
    written("plain", seeds={0: {"score": 1.0, "loss": 2.0}})
    written("quiet", seeds={0: {"score": 1.0, "loss": 2.5}})
    row = ledger.row(claims["noise"])
    assert row.acted is False and row.mechanism == -0.5
    written("quiet", seeds={0: {"score": 1.0, "loss": 1.5}})
    assert ledger.row(claims["noise"]).acted is True


def test_a_recorded_run_is_a_seed_only_where_it_was_made_alike(claims, folder):
    assert ledger.runs_of(arm("quiet")) == {}
    changes = ["noise=0.0", "steps=8"]
    how = {"name": "quiet_one", "system": "tiny", "data": "four_scenes", "weights": False}
    recorded.record(recorded.plan(**how, changes=changes), progress=False)
    assert ledger.runs_of(arm("quiet")) == {}  # evaluated three times, the arm once
    changes.append("evaluations=1")
    recorded.record(recorded.plan(**how, changes=changes), progress=False)
    (run,) = ledger.runs_of(arm("quiet")).values()
    assert run["seed"] == 0 and run["losses"]["loss"] > 0
    assert [(w.arm.name, w.seed) for w in making.missing(["noise"])] == [
        ("plain", 0),
        ("plain", 1),
        ("quiet", 1),
    ]


def test_a_recorded_run_with_weights_is_measured_and_not_trained_again(claims, monkeypatch):
    changes = ["noise=0.0", "steps=8", "evaluations=1"]
    recorded.record(recorded.plan("quiet_one", "tiny", "four_scenes", changes=changes), False)
    first = recorded.read("quiet_one")
    monkeypatch.setattr(making, "fit", None)
    wanted = [each for each in making.missing() if each.arm.name == "quiet"]
    assert [each.seed for each in wanted] == [0, 1] and wanted[0].minutes == making.MEASURING
    kept = making.make(arm("quiet"), 0, progress=False)
    assert kept["scores"]["score"] == first["scores"]["score"] and len(kept["resampled"]) == 1
    assert kept["losses"]["loss"] == first["history"][-1]["loss"] and kept["date"] == first["date"]
    assert names_of(making.missing(["noise"])) == [("plain", 0), ("plain", 1), ("quiet", 1)]


def test_a_damaged_file_of_runs_is_named(claims):
    written("plain", seeds={})
    ledger.runs_file(arm("plain")).write_text("{")
    with pytest.raises(LessonsError, match=r"plain\.json is damaged"):
        ledger.rows()


# ---------------------------------------------------------------- the missing runs


def names_of(wanted):
    return [(each.arm.name, each.seed) for each in wanted]


def test_the_missing_runs_come_by_priority_and_by_seed_each_once(claims):
    wanted = making.missing()
    assert names_of(wanted) == [
        ("quiet", 0),
        ("plain", 0),
        ("wide", 100),
        ("plain", 1),
        ("quiet", 1),
    ]
    assert [each.name for each in wanted] == ["area", "area", "width", "noise", "noise"]
    assert names_of(making.missing(["width"])) == [("wide", 100)]
    with pytest.raises(LessonsError, match="no claim 'nois'"):
        making.missing(["nois"])


def test_missing_runs_are_made_and_kept_in_a_file_an_arm(claims, folder, capsys):
    making.record_claims(progress=False)
    printed = capsys.readouterr().out
    assert "every run of the claims is there" in printed and printed.count("about") == 5
    files = sorted(path.name for path in (folder / "claims").iterdir())
    assert files == ["plain.json", "quiet.json", "wide.json"]
    assert not list(folder.glob("*/weights.safetensors")) and making.missing() == []
    kept = json.loads((folder / "claims" / "plain.json").read_text())
    assert [run["seed"] for run in kept["runs"]] == [0, 1]
    assert kept["settings"]["steps"] == 12 and kept["settings"]["options"] == {}
    (first, second) = kept["runs"]
    assert first["scores"]["score"] != second["scores"]["score"] and first["losses"]["loss"] > 0
    assert len(first["curve"]) == 2 and first["scores"]["rare"] is None
    assert len(first["resampled"]["score"]) == 40 and first["minutes"] > 0
    tuned = json.loads((folder / "claims" / "wide.json").read_text())
    assert tuned["settings"]["held_out"] == "scenes:2"
    row = ledger.row(claims["noise"])
    assert row.verdict.pairs == 2 and row.acted is not None and row.scenes > 0
    assert not list((folder.parent / "checkpoints").glob("claims/*/checkpoint.pt"))


def test_the_scores_are_those_of_the_run_that_the_plan_says(claims):
    kept = making.make(arm("quiet"), 1, progress=False)
    recorded.record(
        recorded.plan(
            "same",
            "tiny",
            "four_scenes",
            seed=1,
            changes=["noise=0.0", "steps=8", "evaluations=1"],
            weights=False,
        ),
        progress=False,
    )
    again = recorded.read("same")["scores"]["score"]
    assert kept["scores"]["score"] == pytest.approx(again, abs=1e-3)  # float16 there
    assert making.make(arm("quiet"), 1, progress=False)["scores"] == kept["scores"]  # not again


def test_a_run_that_does_not_fit_into_the_hours_is_not_begun(claims, capsys):
    making.record_claims(hours=1.5 / 60, progress=False)
    printed = capsys.readouterr().out
    made = {name: list(ledger.runs_of(arm(name))) for name in ("plain", "quiet", "wide")}
    assert made == {"plain": [0, 1], "quiet": [], "wide": []}  # of 1, 2 and 3 minutes
    assert "3 runs of 0.1 hours are left; none fits" in printed


def test_how_long_a_run_takes_is_learned_from_those_that_are_there(claims):
    kept = making.make(arm("plain"), 0, progress=False)
    (wanted,) = [each for each in making.missing() if each.arm.name == "plain"]
    assert wanted.minutes == kept["minutes"] < 1


def test_a_busy_machine_leaves_less_time(claims, monkeypatch, capsys):
    monkeypatch.setattr(making.Clock, "slowness", lambda self: 40.0)
    making.record_claims(hours=0.5, progress=False)
    made = {name: list(ledger.runs_of(arm(name))) for name in ("plain", "quiet", "wide")}
    assert made == {"plain": [], "quiet": [0, 1], "wide": []}  # then 1 minute takes 40
    assert "none fits" in capsys.readouterr().out


def test_two_processes_never_make_the_same_run(claims, capsys, folder):
    with held(places.CHECKPOINTS / "claims" / "plain-0"):
        making.record_claims(["area"], progress=False)
    assert "another process makes it" in capsys.readouterr().out
    assert list(ledger.runs_of(arm("quiet"))) == [0] and not ledger.runs_of(arm("plain"))


def test_a_run_that_was_stopped_goes_on_from_its_checkpoint(claims, monkeypatch):
    whole = making.make(arm("plain"), 0, progress=False)
    ledger.runs_file(arm("plain")).unlink()
    monkeypatch.setenv("TINY_STOP", "7")
    fit = making.fit
    monkeypatch.setattr(making, "fit", lambda *a, **k: fit(*a, **k | {"checkpoint_every": 5}))
    with pytest.raises(LessonsError, match="TINY_STOP"):
        making.make(arm("plain"), 0, progress=False)
    assert ledger.runs_of(arm("plain")) == {}
    resumed = making.make(arm("plain"), 0, progress=False)  # 7 steps are enough for the rest
    assert resumed["scores"] == whole["scores"] and resumed["losses"] == whole["losses"]


def test_runs_of_other_settings_are_not_mixed(claims, folder):
    making.make(arm("plain"), 0, progress=False)
    text = TOML.replace('title = "plain"', 'title = "plain"\nchanges = { steps = 5 }', 1)
    (folder / "claims.toml").write_text(text)
    with pytest.raises(LessonsError, match="other settings: steps is 12, not 5; move it away"):
        making.make(arm("plain"), 1, progress=False)


# ---------------------------------------------------------------- the cards


def test_a_card_of_one_seed_cannot_tell(claims):
    written("plain", seeds={0: {"score": 0.5}})
    written("quiet", seeds={0: {"score": 0.4}})
    card = facade.claim("noise")
    text = repr(card)
    assert "“Noise helps.” Here: is plain better than quiet?" in text
    assert "cannot tell: one seed" in text and "0.500 against 0.400 score" in text
    assert "The paper: Somebody 2020: AP 1" in text and "1 of 2 seeds, no interval" in text
    assert facade.cells(card.row)[4] == "cannot tell (one seed)"


@pytest.mark.parametrize(
    "bet, said",
    [
        ("yes", "Your bet: yes; as measured"),
        ("no", "Your bet: no; measured: shown"),
        ("cannot tell", "Your bet: cannot tell; measured: shown"),
        (None, 'Your bet: yes, no, or cannot tell here: claim("noise", bet="yes")'),
    ],
)
def test_a_card_holds_the_bet_against_the_verdict(claims, bet, said):
    written("plain", seeds={0: {"score": 0.5}, 1: {"score": 0.51}, 2: {"score": 0.53}})
    written("quiet", seeds={0: {"score": 0.4}, 1: {"score": 0.41}, 2: {"score": 0.42}})
    card = facade.claim("noise", bet=bet)
    assert said in repr(card)
    assert "shown: over 3 seeds plain is ahead of quiet by 0.103 score" in repr(card)
    page = card.page()
    assert page.startswith("<div>") and page.count("<details>") == (2 if bet is None else 1)
    assert page.index("Your bet") < page.index("<img") < page.index("shown: over 3 seeds")
    assert (page.index("<details>") < page.index("<img")) == (bet is None)  # folded, or open


def test_a_card_is_one_output_that_is_the_same_every_time(claims):
    written("plain", seeds={0: {"score": 0.5}})
    written("quiet", seeds={0: {"score": 0.4}})
    bundles = [facade.claim("noise")._repr_mimebundle_() for _ in range(2)]
    assert bundles[0] == bundles[1] and bundles[0].keys() == {"text/plain", "text/html"}
    page = bundles[0]["text/html"]
    assert len(page) < 60_000 and re.search('src="data:image/png;base64,[A-Za-z0-9+/=]+"', page)
    width, height = facade.draw_claim(facade.row(claims["noise"])).get_size_inches()
    assert width <= 6 and height <= 2


def test_a_card_without_a_run_says_so(claims):
    card = facade.claim("area", bet="cannot tell")
    assert "cannot tell: no run of both is there yet" in repr(card)
    assert "The paper: no number of it is at hand" in repr(card) and "<img" in card.page()


def test_a_bet_is_one_of_three(claims):
    with pytest.raises(LessonsError, match="a bet is yes, no or cannot tell here, not 'maybe'"):
        facade.claim("noise", bet="maybe")


# ---------------------------------------------------------------- the command line


def test_the_ledger_is_printed_with_the_count_of_each_verdict(claims, lessons):
    written("plain", seeds={0: {"score": 0.5}, 1: {"score": 0.51}, 2: {"score": 0.53}})
    written("quiet", seeds={0: {"score": 0.4}, 1: {"score": 0.41}, 2: {"score": 0.42}})
    code, printed, errors = lessons("claims")
    assert code == 0 and not errors
    assert "2 claims: 1 shown, 0 opposite, 0 too small to matter, 1 cannot tell" in printed
    (line,) = [line for line in printed.splitlines() if "│ noise" in line]
    assert "3 of 2" in line and "+0.103 score [+0.089, +0.118]" in line and "shown" in line
    assert "0 of 1 runs are there" in printed


def test_one_claim_is_printed_with_its_runs_and_its_picture(claims, lessons, folder):
    making.make(arm("plain"), 0, progress=False)
    code, printed, _ = lessons("claims", "noise")
    assert code == 0 and "“Noise helps.”" in printed and "seed 0:" in printed
    assert "12 steps of 3" in printed and "Your bet" not in printed
    picture = folder.parent / "build" / "claims" / "noise.png"
    assert picture.read_bytes().startswith(b"\x89PNG") and "build/claims/noise.png" in printed
    code, _, errors = lessons("claims", "nose")
    assert code == 1 and errors.startswith("lessons: there is no claim 'nose'")


def test_the_plan_is_printed_with_its_hours(claims, lessons):
    code, printed, _ = lessons("claims", "--plan")
    assert code == 0 and "5 runs, 0.1 hours on one thread" in printed
    assert re.search(r"area +2 runs +3 min  quiet, plain", printed)


def test_record_makes_the_runs_of_claims(claims, lessons):
    code, printed, errors = lessons("record", "--claims", "area", "--hours", "1")
    assert code == 0 and list(ledger.runs_of(arm("quiet"))) == [0]
    code, _, errors = lessons("record", "--hours", "1")
    assert code == 1 and "say --claims too" in errors


# ---------------------------------------------------------------- the course's own


def test_an_arm_s_recorded_run_was_made_exactly_as_the_arm_says():
    arms = {arm.name: arm for claim in ledger.claims().values() for arm in claim.arms}
    there = recorded.names()
    with_one = [arm for arm in arms.values() if arm.recorded]
    assert len(with_one) > 30
    for each in with_one:
        assert each.recorded in there and 0 in ledger.runs_of(each), each.name
        wanted = recorded._settings_of(each.plan(0), None)
        assert recorded._settings(recorded.read(each.recorded)) == wanted, each.name


def test_the_runs_of_claims_were_made_as_the_ledger_says():
    for claim in [*ledger.claims().values(), *ledger.tunings().values()]:
        for each in claim.arms:
            plan = each.plan(0)
            recipe = plan.recipe()
            making._must_fit(each, making.settings(each, recipe))
            if each.held_out:
                assert each.held_out not in ("scenes", "scenes:0", "scenes:1")


def test_the_files_of_runs_are_those_of_arms_and_small():
    arms = {arm.name for each in ledger.claims().values() for arm in each.arms}
    arms |= {arm.name for each in ledger.tunings().values() for arm in each.arms}
    files = list((places.RECORDED / "claims").glob("*"))
    assert {path.stem for path in files} <= arms
    for path in files:
        runs = json.loads(path.read_text(encoding="utf-8"))["runs"]
        assert path.stat().st_size < 6000 * len(runs)


def test_every_claim_names_a_lesson_and_a_score_that_its_system_has(root):
    lessons = {path.name[:2] for path in root.glob("notebooks/[0-9]*.ipynb")}
    for claim in ledger.claims().values():
        assert claim.lesson in lessons and claim.says.endswith((".", ":"))
        for each in claim.arms:
            for run in ledger.runs_of(each).values():
                if "resampled" in run:
                    assert math.isfinite(ledger.value(run, claim.measure)), (claim.name, each.name)


def test_wide_scenes_are_the_same_landscapes_with_things_of_other_sizes():
    plain, wide = (data_set(name, "validation", 64, 30) for name in ("scenes", "wide_scenes"))
    spreads = []
    for data in (plain, wide):
        sizes = []
        for sample in data:
            thing = sample.segments.masks[(sample.segments.labels < 4) & ~sample.segments.is_crowd]
            sizes += thing.flatten(1).sum(dim=1).double().log().tolist()
        spreads.append(torch.tensor(sizes).std())
    assert spreads[1] > 1.4 * spreads[0]
    sky = [data[0].image[:, :4].mean() for data in (plain, wide)]
    assert abs(sky[0] - sky[1]) < 0.1


def test_the_runs_are_made_without_jupyter_and_the_command_lines_packages(root):
    code = (
        "import sys\n"
        "for name in ('IPython', 'ipywidgets', 'typer', 'rich', 'matplotlib', 'nbformat'):\n"
        "    sys.modules[name] = None\n"
        "from lessons.kit.training import making\n"
        "print(len(making.missing()) >= 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr
