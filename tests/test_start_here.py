"""Lesson 00: its turn, what one should know before, its photograph, and the map of the course."""

import re

import nbformat
import pytest
import torch
from homework_checks import assert_mistakes_get_their_own_hint

from lessons.figures import start_here as figures
from lessons.homework.answers.start_here_turns import connected_patches
from lessons.homework.start_here import check, homework, your_turns
from lessons.kit import places
from lessons.kit.data import semantic_map
from lessons.kit.data.real import CocoPanoptic
from lessons.kit.homework import judge, questions
from lessons.kit.homework import recall as recalling
from lessons.kit.homework.recall import recall

BEFORE = questions.prerequisites()


# ---------------------------------------------------------------- the turn


def by_flood_fill(classes, label):
    """The same by hand, as somebody who does not know `ndimage.label` writes it."""
    left, masks = classes == label, []
    for i, j in left.nonzero().tolist():
        if not left[i, j]:
            continue
        mask, edge = torch.zeros_like(left), [(i, j)]
        while edge:
            y, x = edge.pop()
            if 0 <= y < left.shape[0] and 0 <= x < left.shape[1] and left[y, x]:
                left[y, x], mask[y, x] = False, True
                edge += [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
        masks.append(mask)
    return torch.stack(masks) if masks else torch.zeros(0, *left.shape, dtype=torch.bool)


def test_patches_are_disjoint_and_together_the_class(scenes):
    for index in range(5):
        classes = semantic_map(scenes[index].segments)
        for label in range(4):
            masks = connected_patches(classes, label)
            assert torch.equal(masks.sum(0), (classes == label).long())
            assert torch.equal(masks, by_flood_fill(classes, label))


def test_another_way_passes_and_its_name_is_the_turns():
    submission = by_flood_fill
    submission.__name__ = "connected_patches"
    verdict = judge(homework.exercise("connected_patches"), submission)
    assert verdict.state == "passed", verdict.message


def test_every_mistake_gets_its_own_hint():
    assert_mistakes_get_their_own_hint(homework)
    assert len(homework.turns["connected_patches"].mistakes) == 8


def test_a_lesson_without_homework_has_a_board_of_turns():
    assert homework.exercises == {} and homework.lesson == "start_here"
    assert repr(homework.score_board()) == "Lesson 00: start here\nturn  minutes  state"
    assert "connected_patches        8  owed (to do)" in repr(your_turns())
    assert check is homework.check


# ---------------------------------------------------------------- what one should know before


def by_torch():
    """The answers that are numbers, computed."""
    scores, labels = torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2]]), torch.tensor([1, 0])
    x = torch.tensor(3.0, requires_grad=True)
    (x**2 + 2 * x.detach()).backward()
    layer = torch.nn.Conv2d(3, 16, kernel_size=3, stride=2, padding=1)
    one, other = torch.zeros(2, 2, 3, dtype=torch.bool)
    one[:, :2], other[:, 1:] = True, True
    return {
        "gather": scores.gather(1, labels[:, None]).sum(),
        "autograd": x.grad,
        "convolution": layer(torch.zeros(1, 3, 128, 128)).shape[2],
        "iou": (one & other).sum() / (one | other).sum(),
    }


def test_there_are_five_and_the_answers_are_right():
    computed = by_torch()
    assert [q.id for q in BEFORE] == ["broadcasting", *computed]
    for question in BEFORE:
        assert question.judged(question.answer) is None
        if question.kind == "number":
            assert float(computed[question.id]) == pytest.approx(
                question.answer, abs=question.tolerance
            )
    other = "out = (masks.permute(1, 2, 0) * weights).permute(2, 0, 1)"
    assert BEFORE[0].judged(other) is None


@pytest.mark.parametrize("question", BEFORE, ids=lambda q: q.id)
def test_a_miss_points_to_a_cell_at_the_end(question, root):
    cells = nbformat.read(root / "notebooks/00_start_here.ipynb", 4).cells
    text = [
        line for cell in cells if cell.cell_type == "markdown" for line in cell.source.split("\n")
    ]
    assert text.index(f"### {question.see}") > text.index("## Two minutes each")
    for wrong in question.wrong:
        recalling._MISSES.clear()
        line = recalling._line("a", question, wrong["answer"])
        assert line.startswith(f"✗ a: {wrong['say']}")
        assert line.endswith(f"Look again at *{question.see}*, at the end of this notebook.")
        assert str(question.answer) not in line


def test_it_is_asked_before_the_first_lesson(capsys):
    asked = recall("00")
    assert recall(0) == asked and list(asked.questions) == list("abcde")
    assert repr(asked).startswith("**a**. *Broadcasting.*")
    assert recall(0, b=1.2, e=1 / 3) is None
    assert capsys.readouterr().out.splitlines() == [
        "○ a: not answered yet",
        "✓ b",
        "○ c: not answered yet",
        "○ d: not answered yet",
        "✓ e",
    ]


def test_the_first_lesson_recalls_this_one():
    assert [q.id for q in recall(1).questions.values()] == ["patches-of-a-map"]
    assert [q.lesson for q in recall(3).questions.values()] == ["anchor_boxes", "start_here"]


# ---------------------------------------------------------------- the photograph and the map


def test_the_photograph_is_small_and_named_with_its_licence():
    coco = CocoPanoptic(folder=places.PHOTOGRAPHS)
    sources = (places.PHOTOGRAPHS / "SOURCES.md").read_text(encoding="utf-8")
    assert len(coco.categories) == 133
    for index, name in enumerate(coco.names):
        file = places.PHOTOGRAPHS / "train2017" / f"{name}.jpg"
        assert file.stat().st_size <= 60_000
        assert re.search(rf"`{file.name}` \| http\S+, .*CC BY 2.0", sources)
        sample = coco[index]
        assert max(sample.image.shape) == 480 and sample.segments.masks.flatten(1).any(1).all()


def test_two_giraffes_are_one_patch():
    coco = CocoPanoptic(folder=places.PHOTOGRAPHS)
    giraffe = [category.name for category in coco.categories].index("giraffe")
    segments = coco.read("000000000072").segments
    assert (segments.labels == giraffe).sum() == 2
    assert len(connected_patches(semantic_map(segments), giraffe)) == 1


def test_the_map_names_every_lesson_with_the_time_that_it_states(root):
    rows = figures.course_map().data.split("\n")[2:]
    files = sorted(path.name for path in (root / "notebooks").glob("[0-9]*.ipynb"))[1:]
    assert [row.split("(")[1].split(")")[0] for row in rows[:-1]] == files
    for row, file in zip(rows, files, strict=False):
        time = row.split("|")[4]
        assert re.search(r"\d+ min", time) and "](" not in time, file
    assert rows[-1].startswith("| 18 photographs (to come)")


def test_a_lesson_that_is_not_there_states_no_time(tmp_path):
    assert figures.stated_time(tmp_path / "19_sheep.ipynb") == ""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Sheep")])
    nbformat.write(notebook, tmp_path / "19_sheep.ipynb")
    assert figures.stated_time(tmp_path / "19_sheep.ipynb") == ""
