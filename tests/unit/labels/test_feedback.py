"""Feedback files: what is read, what becomes a vote, and that every other row is counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from bccp.core.errors import BCCPError
from bccp.data.label_tables.votes import majority, problems_sentence
from bccp.labels import feedback

IMAGES = ["cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png"]
CLASSES = ["cat", "dog"]


def sorted_out(path: Path, content: str | bytes) -> feedback.Feedback:
    path = path / "feedback.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return feedback.sort_out(feedback.read_feedback(path), images=IMAGES, classes=CLASSES)


def counts(said: feedback.Feedback) -> dict[str, int]:
    return {kind: len(cases) for kind, cases in said.problems.items() if cases}


def test_each_row_is_a_vote(tmp_path: Path) -> None:
    said = sorted_out(tmp_path, "image,label\ncat/1.png,cat\ndog/1.png,cat\n")
    assert said.votes == {("cat/1.png", ""): "cat", ("dog/1.png", ""): "cat"}
    assert said.named == {"cat/1.png", "dog/1.png"}
    assert not said.has_users
    assert said.n_rows == 2
    assert counts(said) == {}


def test_rows_may_leave_the_folder_of_the_new_day_out(tmp_path: Path) -> None:
    new = ["tuesday/cat/1.png", "tuesday/2.png"]
    images, known = ["monday/cat/1.png", "monday/dog/1.png", *new], {"classes": CLASSES, "new": new}
    rows = "cat/1.png,dog\nmonday/dog/1.png,dog\nmonday/2.png,dog\nC:\\photos\\cat\\1.png,dog\n2.png,cat\ncat/2.png,cat\n"
    (tmp_path / "feedback.csv").write_text(f"image,label\n{rows}")
    file = feedback.read_feedback(tmp_path / "feedback.csv")
    said = feedback.sort_out(file, images=images, **known)
    assert said.votes == {("monday/dog/1.png", ""): "dog", ("tuesday/2.png", ""): "cat", ("tuesday/cat/1.png", ""): "dog"}


@pytest.mark.parametrize(
    "content",
    [
        "image,label\ncat/1.png,cat\ndog/1.png,bird\ncat/9.png,cat\n",  # dog/1.png is named, without a vote
        "image,label,user\ncat/1.png,cat,NA\ncat/1.png,dog,007\ncat/2.png,cat,\ncat/2.png,dog,\n",
    ],
)
def test_what_is_saved_is_loaded_as_it_was(content: str, tmp_path: Path) -> None:
    said = sorted_out(tmp_path, content)
    feedback.save_feedback(said, tmp_path)
    assert feedback.load_feedback(tmp_path) == said


@pytest.mark.parametrize(
    "content",
    [
        "\ufeffimage,label\r\ncat/1.png,dog\r\n".encode(),
        b" image , label \ncat/1.png,dog\n",
        b"time,label,image,note\n9:00,dog,cat/1.png,hm\n",
        b"image,label\n\ncat/1.png,dog\n   \n\n",
        b'"image","label"\n"cat/1.png","dog"',
        b"image,label\n./cat/1.png, dog \n",
        b"image,label\ncat\\1.png,dog\n",
        b"image,label\ncat/1.png,dog,\n",
        b"image;label\ncat/1.png;dog\n",
        b"image\tlabel\ncat/1.png\tdog\n",
        "image\tlabel\r\ncat/1.png\tdog\r\n".encode("utf-16"),  # as spreadsheets save Unicode text
        b"image,label\n/home/ann/data/cat/1.png,dog\n",
    ],
    ids=[
        "mark and windows",
        "blanks",
        "columns",
        "empty lines",
        "quotes",
        "dot slash",
        "backslash",
        "trailing comma",
        "semicolons",
        "tabs",
        "utf-16",
        "prefix",
    ],
)
def test_harmless_differences_are_tolerated(tmp_path: Path, content: bytes) -> None:
    said = sorted_out(tmp_path, content)
    assert said.votes == {("cat/1.png", ""): "dog"}
    assert counts(said) == {}


def test_a_name_that_the_data_has_is_never_respelled(tmp_path: Path) -> None:
    path = tmp_path / "feedback.csv"
    path.write_text("image,label\na\\b.png,two  blanks \na/b.png,x\n", encoding="utf-8")
    said = feedback.sort_out(feedback.read_feedback(path), images=["a\\b.png", "a/b.png"], classes=["two  blanks ", "x"])
    assert said.votes == {("a\\b.png", ""): "two  blanks ", ("a/b.png", ""): "x"}


def test_names_in_another_unicode_form_meet(tmp_path: Path) -> None:
    path, nfc, nfd = tmp_path / "feedback.csv", "caf\u00e9", "cafe\u0301"
    path.write_text(f"image,label,user\n{nfc}/1.png,{nfd},Ren\u00e9\n{nfc}/1.png,{nfc},Rene\u0301\n{nfd}/2.png,{nfc},x\n", encoding="utf-8")
    images = [f"{nfd}/1.png", f"{nfc}/2.png", f"{nfd}/2.png"]
    said = feedback.sort_out(feedback.read_feedback(path), images=images, classes=[nfc, "b"])
    assert said.votes == {(f"{nfd}/1.png", "Ren\u00e9"): nfc, (f"{nfd}/2.png", "x"): nfc}  # ids keep their bytes
    assert counts(said) == {"repeated": 1}


def test_names_in_another_case_are_told_and_not_taken(tmp_path: Path) -> None:
    said = sorted_out(tmp_path, "image,label\nCat/1.PNG,cat\ncat/ 2.png,dog\ndog/1.png,dog\n")
    assert said.problems["unknown_image"] == [
        "Cat/1.PNG (did you mean 'cat/1.png'? they differ in upper and lower case)",
        "cat/ 2.png (did you mean 'cat/2.png'? they differ in blanks)",
    ]
    with pytest.raises(BCCPError, match=r"called 'Cat/1\.png' there \(did you mean 'cat/1\.png'.* upper and lower case"):
        sorted_out(tmp_path, "image,label\nCat/1.png,cat\n")


def test_names_that_look_like_numbers_stay_text(tmp_path: Path) -> None:
    path = tmp_path / "feedback.csv"
    path.write_text("image,label,user\n007,NA,01\n", encoding="utf-8")
    said = feedback.sort_out(feedback.read_feedback(path), images=["007"], classes=["NA", "x"])
    assert said.votes == {("007", "01"): "NA"}


def test_unknown_images_are_counted(tmp_path: Path) -> None:
    said = sorted_out(tmp_path, "image,label\nbird/1.png,cat\ncat/1.png,cat\n")
    assert said.problems["unknown_image"] == ["bird/1.png"]
    assert counts(said) == {"unknown_image": 1}


def test_unknown_classes_are_counted_and_their_images_still_named(tmp_path: Path) -> None:
    said = sorted_out(tmp_path, "image,label\ncat/2.png,catt\ncat/1.png,cat\n")
    assert said.problems["unknown_class"] == ["'catt' for cat/2.png (did you mean 'cat'?)"]
    assert said.named == {"cat/1.png", "cat/2.png"}
    assert ("cat/2.png", "") not in said.votes


def test_malformed_rows_are_counted(tmp_path: Path) -> None:
    said = sorted_out(tmp_path, "image,label\ncat/1.png\n,dog\ncat/2.png, \ndog/1.png,dog,more\ndog/2.png,dog\n")
    assert said.problems["malformed"] == ["line 2", "line 3", "line 4", "line 5"]
    assert said.votes == {("dog/2.png", ""): "dog"}


def test_equal_duplicates_collapse_and_conflicting_ones_are_dropped(tmp_path: Path) -> None:
    rows = "cat/1.png,cat\ncat/1.png,cat\ncat/1.png,cat\ndog/1.png,cat\ndog/1.png,dog\ndog/2.png,dog\n"
    said = sorted_out(tmp_path, "image,label\n" + rows)
    assert said.votes == {("cat/1.png", ""): "cat", ("dog/2.png", ""): "dog"}
    assert counts(said) == {"repeated": 2, "conflicting": 2}
    assert said.problems["conflicting"][0] == "line 5: dog/1.png as 'cat' and 'dog'"
    assert "dog/1.png" in said.named


def test_with_users_a_duplicate_is_the_same_image_and_user(tmp_path: Path) -> None:
    rows = "cat/1.png,cat,ann\ncat/1.png,dog,bob\ncat/1.png,cat,ann\ncat/2.png,cat,ann\ncat/2.png,dog,ann\ncat/2.png,dog,bob\n"
    said = sorted_out(tmp_path, "image,label,user\n" + rows)
    assert said.has_users
    assert said.votes == {("cat/1.png", "ann"): "cat", ("cat/1.png", "bob"): "dog", ("cat/2.png", "bob"): "dog"}
    assert counts(said) == {"repeated": 1, "conflicting": 2}


def test_every_row_is_a_vote_or_a_problem(tmp_path: Path) -> None:
    rows = "cat/1.png,cat\ncat/1.png,cat\ndog/1.png,cat\ndog/1.png,dog\nx.png,cat\ncat/2.png,cow\n,\n,cat\n"
    said = sorted_out(tmp_path, "image,label\n" + rows)
    assert said.n_rows == 7  # a line of nothing but commas is no row
    assert len(said.votes) + sum(counts(said).values()) == said.n_rows


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"image,label\n", "has no rows"),
        (b"image,colour,mood\ncat/1.png,red,good\n", "no column 'label' (its columns are 'image', 'colour', 'mood')"),
        (b"cat/1.png,cat\n", "an image's name in its first line"),
        (b"image,label,label\ncat/1.png,cat,dog\n", "2 columns 'label'"),
        (b"image,label\ncaf\xe9/1.png,cat\n", "not text in UTF-8"),
        ("image,label\ncat/1.png,cat\n".encode("utf-16-le"), "not text in UTF-8"),
        (b'image,label\n"cat/1.png,cat\n', "no CSV file"),
        (b"image,label\ncat/9.png,cat\n", "'cat/9.png' there and 'cat/1.png' in the data"),
        (
            b"image,label\ncat/1.png,Cat\n",
            "'Cat' for cat/1.png (did you mean 'cat'? they differ in upper and lower case) is no class; the classes are 'cat', 'dog'",
        ),
        (b"image,label\ncat/1.png,cat\ncat/1.png,dog\n", "2 conflicting"),
    ],
)
def test_a_file_of_no_use_is_refused_in_one_sentence(tmp_path: Path, content: bytes, words: str) -> None:
    with pytest.raises(BCCPError) as caught:
        sorted_out(tmp_path, content)
    assert words in str(caught.value)
    assert str(tmp_path / "feedback.csv") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_refused_by_name(tmp_path: Path) -> None:
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(BCCPError, match=r"cannot be read .*image,label\[,user\]") as caught:
            feedback.read_feedback(path)
        assert str(path) in str(caught.value)


def test_the_majority_wins() -> None:
    votes = {("a", "1"): "cat", ("a", "2"): "dog", ("a", "3"): "dog", ("b", "1"): "cat"}
    assert majority(votes, seed=0) == ({"a": "dog", "b": "cat"}, 0)


def test_ties_are_counted_and_decided_by_seed_and_image_in_any_order() -> None:
    votes = {(f"{i}.png", user): label for i in range(200) for user, label in (("ann", "cat"), ("bob", "dog"))}
    labels, n_ties = majority(votes, seed=1)
    assert n_ties == 200
    assert majority(dict(reversed(votes.items())), seed=1) == (labels, 200)
    assert majority(votes, seed=2)[0] != labels
    n_cats = list(labels.values()).count("cat")
    assert abs(n_cats - 100) < 5 * (200 * 0.25) ** 0.5


def test_a_report_counts_all_and_shows_five() -> None:
    problems = {"unknown_image": [str(i) for i in range(9)], "repeated": []}
    assert feedback.problem_counts(problems) == {
        "unknown_image": {"count": 9, "examples": ["0", "1", "2", "3", "4"]},
        "repeated": {"count": 0, "examples": []},
    }
    assert problems_sentence(problems) == "9 unknown image (e.g. 0)"


def test_each_annotator_of_a_file_with_dissent_has_a_vote_whatever_the_column_is_called(tmp_path: Path) -> None:
    rows = "".join(f"{image},{label},{who}\n" for image in IMAGES for label, who in (("cat", "ann"), ("dog", "bob"), ("cat", "cy")))
    said = sorted_out(tmp_path, "image,label,completed_by\n" + rows)
    assert (len(said.votes), counts(said), said.has_users) == (12, {}, True)
    with pytest.raises(BCCPError, match="its column 'who' looks like the annotator's"):
        sorted_out(tmp_path, "image,label,who\n" + rows)


def test_where_no_class_is_known_the_file_says_which_there_are(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("file;class\nb.png; dog\na.png;cat\nc.png;cow\n", encoding="utf-8")
    said = feedback.sort_out(feedback.read_feedback(path), images=["a.png", "b.png"], classes=None)
    assert said.votes == {("a.png", ""): "cat", ("b.png", ""): "dog"}
    assert counts(said) == {"unknown_image": 1}


def test_a_row_about_an_unreadable_file_is_about_no_other_image(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_text("image,label\n3.png,cat\n2.png,dog\n", encoding="utf-8")
    read = feedback.read_feedback(path)
    said = feedback.sort_out(read, images=["cat/2.png", "dog/3.png"], classes=CLASSES, unreadable=["cat/3.png"])
    assert said.votes == {("cat/2.png", ""): "dog"}
    assert counts(said) == {"ambiguous_image": 1}
