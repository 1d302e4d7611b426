"""Tables of labels: the layouts in which tools, crowds and data sets write them, and what is refused in one sentence."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bccp.core.errors import BCCPError
from bccp.data.label_tables import reading
from bccp.data.label_tables.columns import Columns
from bccp.data.label_tables.reading import LabelTable

Votes = list[tuple[str, str, str]]


def read(content: str | bytes | Any, layout: str = "auto", **columns: Any) -> LabelTable:
    if not isinstance(content, str | bytes):
        content = json.dumps(content)
    data = content.encode() if isinstance(content, str) else content
    return reading.read(data, "feedback file f.csv", layout=layout, columns=Columns(**columns))


def votes(table: LabelTable) -> Votes:
    return [(answer.image, answer.label, answer.user) for answer in table.answers if not answer.problem]


def problems(table: LabelTable) -> list[tuple[str, str]]:
    return [(answer.place, answer.problem) for answer in table.answers if answer.problem]


def refusal(content: str | bytes | Any, layout: str = "auto", **columns: Any) -> str:
    with pytest.raises(BCCPError) as caught:
        read(content, layout, **columns)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("the feedback file f.csv ")
    return str(caught.value)


ROWS = "a.png,cat,ann\na.png,dog,bob\nb.png,cat,ann\nb.png,cat,bob\n"


@pytest.mark.parametrize(
    "column",
    ["user", "User", "annotator", "annotator_id", "Annotator ID", "completed_by", "worker_id", "WorkerId", "labeler", "labeller", "rater",
     "created_username", "labeled_by", "user_name", "email"],
)  # fmt: skip
def test_annotators_are_told_apart_by_a_column_of_any_usual_name(column: str) -> None:
    table = read(f"image,label,{column}\n" + ROWS)
    assert table.has_users
    assert (table.user, len(votes(table))) == (column, 4)


def test_of_two_columns_that_say_the_same_of_annotators_one_is_taken_and_of_others_none() -> None:
    rows = "a.png,cat,ann,1\na.png,dog,bob,2\nb.png,cat,ann,1\n"
    assert read("image,label,annotator,annotator_id\n" + rows).user == "annotator"
    assert read("image,label,user,reader\n" + rows.replace("ann,1\nb", "ann,9\nb")).user == "user"
    said = refusal("image,label,annotator,reader\n" + rows + "b.png,cat,bob,1\n")
    assert "several columns that may tell annotators apart, 'annotator', 'reader'" in said
    assert '"noisy_labels.columns={user: annotator}"' in said


def test_a_column_that_looks_like_the_annotators_stops_where_labels_differ() -> None:
    said = refusal("image,label,who\n" + ROWS)
    assert "its column 'who' looks like the annotator's" in said
    assert '"noisy_labels.columns={user: who}"' in said
    assert '"noisy_labels.columns={user: null}"' in said
    assert read("image,label,who\n" + ROWS, user="who").has_users
    assert not read("image,label,who\n" + ROWS, user="").has_users
    assert not read("image,label,who\n" + ROWS.replace("dog", "cat")).has_users  # nobody contradicts anybody


def test_annotators_of_a_single_image_or_who_answered_twice_do_not_hide_the_column() -> None:
    rows = "".join(f"{i}.png,{'cat' if i % 3 or who == 'ann' else 'dog'},{who}\n" for i in range(20) for who in ("ann", "bob"))
    for more in ("0.png,dog,zed\n", "0.png,cat,ann\n"):
        assert "its column 'wer' looks like the annotator's" in refusal("image,label,wer\n" + rows + more)
    crowd = "".join(f"{i // 2}.png,{'cat' if i % 2 else 'dog'},w{i}\n" for i in range(40))  # each answered once
    assert "its column 'turker' looks like the annotator's" in refusal("image,label,turker\n" + crowd)
    assert not read("image,label,code\n" + crowd).has_users  # may as well number the rows


@pytest.mark.parametrize("values", [["9:01", "9:02", "9:03", "9:04"], ["", "", "", ""], ["x", "x", "x", "x"]])
def test_other_columns_do_not_look_like_annotators(values: list[str]) -> None:
    rows = "".join(f"{row},{value}\n" for row, value in zip(["a.png,cat", "a.png,dog", "b.png,cat", "b.png,cat"], values, strict=True))
    assert not read("image,label,note\n" + rows).has_users


# Columns and their order (sorted) as label_studio_sdk/converter/exports/csv2.py of https://github.com/HumanSignal/label-studio-sdk writes
# them: those of the task, one for each control, and always annotation_id, annotator, created_at, lead_time and updated_at; earlier
# versions (https://github.com/HumanSignal/label-studio-converter) also was_cancelled. Several choices are JSON.
STUDIO_CSV = """"annotation_id","annotator","created_at","id","image","lead_time","mood","updated_at"
1,"ann@example.org","2024-01-02T10:00:00Z",11,"/data/upload/3/1f2e3d4c-a.png",4.2,"cat","2024-01-02T10:00:04Z"
2,"bob@example.org","2024-01-02T10:01:00Z",11,"/data/upload/3/1f2e3d4c-a.png",3.9,"dog","2024-01-02T10:01:04Z"
3,"ann@example.org","2024-01-02T10:02:00Z",12,"/data/upload/3/0a1b2c3d-b.png",2.0,"{""choices"": [""cat"", ""dog""]}","2024-01-02T10:02:02Z"
4,"bob@example.org","2024-01-02T10:03:00Z",12,"/data/upload/3/0a1b2c3d-b.png",2.0,"","2024-01-02T10:03:02Z"
"""


@pytest.mark.parametrize("layout", ["auto", "label_studio", "rows"])
def test_label_studio_csv(layout: str) -> None:
    table = read(STUDIO_CSV, layout)
    assert votes(table) == [
        ("/data/upload/3/1f2e3d4c-a.png", "cat", "ann@example.org"),
        ("/data/upload/3/1f2e3d4c-a.png", "dog", "bob@example.org"),
    ]
    assert problems(table) == [("line 4", "several_classes"), ("line 5", "malformed")]
    assert table.described == "image 'image', label 'mood', user 'annotator'"


def test_label_studio_tsv_and_cancelled_rows() -> None:
    header = ["annotation_id", "annotator", "choice", "created_at", "id", "image", "lead_time", "updated_at", "was_cancelled"]
    rows = [["1", "1", "cat", "t", "1", "a.png", "1.5", "t", "False"], ["2", "2", "dog", "t", "1", "a.png", "1.5", "t", "True"]]
    table = read("\n".join("\t".join(f'"{cell}"' for cell in row) for row in [header, *rows]))
    assert votes(table) == [("a.png", "cat", "1")]
    assert problems(table) == [("line 3", "skipped")]


def task(image: str, *annotations: dict[str, Any], number: int = 1) -> dict[str, Any]:
    return {"id": number, "data": {"image": image}, "annotations": list(annotations), "predictions": [annotation("cow", 99)]}


def annotation(label: str | None, who: Any, *, question: str = "choice", **more: Any) -> dict[str, Any]:
    value = [{"from_name": question, "to_name": "image", "type": "choices", "value": {"choices": [label]}}] if label else []
    return {"id": 5, "completed_by": who, "result": value, "was_cancelled": False, "ground_truth": False} | more


def test_label_studio_json() -> None:
    # as https://labelstud.io/guide/task_format describes it; completed_by is a number, or in a snapshot with users' details an object
    tasks = [
        task("/data/local-files/?d=photos/a.png", annotation("cat", 1), annotation("dog", {"id": 2, "email": "bob@example.org"})),
        task("s3://bucket/photos/b.png", annotation("cat", 1, was_cancelled=True), annotation(None, 3), number=12),
    ]
    table = read(tasks)
    assert table.layout == "label_studio"
    assert votes(table) == [
        ("/data/local-files/?d=photos/a.png", "cat", "1"),
        ("/data/local-files/?d=photos/a.png", "dog", "bob@example.org"),
    ]
    assert problems(table) == [("task 12", "skipped"), ("task 12", "malformed")]
    assert votes(read(tasks[0])) == votes(table)  # a single task, as storage keeps them
    assert votes(read("\n".join(map(json.dumps, tasks)))) == votes(table)
    before_1_0 = [{"id": 1, "data": {"image": "a.png"}, "completions": [annotation("cat", 1)]}]
    assert votes(read(before_1_0)) == [("a.png", "cat", "1")]


def test_of_several_questions_of_label_studio_one_has_to_be_named() -> None:
    tasks = [task("a.png", annotation("cat", 1)), task("b.png", annotation("good", 1, question="quality"))]
    assert "answers several questions, 'choice', 'quality'" in refusal(tasks)
    assert votes(read(tasks, label="choice")) == [("a.png", "cat", "1")]
    several = {"from_name": "choice", "type": "choices", "value": {"choices": ["cat", "dog"]}}
    assert problems(read([task("a.png", annotation("cat", 1), {"completed_by": 2, "result": [several]})])) == [
        ("task 1", "several_classes")
    ]
    box = {"from_name": "tag", "type": "rectanglelabels", "value": {"rectanglelabels": ["cat"], "x": 1}}
    assert "no annotation with choices" in refusal([task("a.png", {"completed_by": 1, "result": [box]})])


def test_label_studio_json_min() -> None:
    # as convert_to_json_min in label_studio_sdk/converter/converter.py writes it; the annotator is a number there
    records = [
        {"image": "/data/upload/1/0a1b2c3d-a.png", "id": 1, "sentiment": "cat", "annotator": 1, "annotation_id": 1, "created_at": "t",
         "updated_at": "t", "lead_time": 2.5},
        {"image": "/data/upload/1/0a1b2c3d-a.png", "id": 1, "sentiment": {"choices": ["cat", "dog"]}, "annotator": 2, "annotation_id": 2,
         "created_at": "t", "updated_at": "t", "lead_time": 2.5},
    ]  # fmt: skip
    table = read(records)
    assert votes(table) == [("/data/upload/1/0a1b2c3d-a.png", "cat", "1")]
    assert problems(table) == [("record 2", "several_classes")]


def test_hugging_face_metadata() -> None:
    # https://huggingface.co/docs/datasets/image_dataset: a column file_name, the other columns are free
    lines = [{"file_name": "0001.png", "label": "cat", "additional_feature": "x"}, {"file_name": "0002.png", "label": None}]
    table = read("\n".join(map(json.dumps, lines)) + "\n")
    assert votes(table) == [("0001.png", "cat", "")]
    assert problems(table) == [("record 2", "malformed")]
    assert votes(read("file_name,label\n0001.png,3\n")) == [("0001.png", "3", "")]  # metadata.csv, with numbers for classes
    assert votes(read([{"file_name": "a.png", "label": 0}, {"file_name": "b.png", "label": 7}])) == [("a.png", "0", ""), ("b.png", "7", "")]


def test_roboflow_classes() -> None:
    # _classes.csv, as RoboflowMulticlassBase in datumaro/plugins/data_formats/roboflow/base.py of
    # https://github.com/openvinotoolkit/datumaro reads it: the names of classes have a blank before them
    table = read("filename, cat, dog, cow\na.jpg, 1, 0, 0\nb.jpg, 0, 1, 0\nc.jpg, 1, 1, 0\nd.jpg, 0, 0, 0\ne.jpg,0,1,0\n")
    assert table.layout == "one_hot"
    assert votes(table) == [("a.jpg", "cat", ""), ("b.jpg", "dog", ""), ("e.jpg", "dog", "")]
    assert problems(table) == [("line 4", "several_classes"), ("line 5", "several_classes")]
    assert votes(read("filename, cat, dog\na.jpg, 1, 0\nb.jpg, 1, 0\n")) == [("a.jpg", "cat", ""), ("b.jpg", "cat", "")]  # a small split
    # as ISIC's ground truth: numbers with a point, names without an extension (https://challenge.isic-archive.com/data/)
    assert votes(read("image,MEL,NV\nISIC_0024306,0.0,1.0\nISIC_0024307,1.0,0.0\n")) == [
        ("ISIC_0024306", "NV", ""),
        ("ISIC_0024307", "MEL", ""),
    ]


def test_a_table_of_several_classes_an_image_is_refused() -> None:
    said = refusal("filename, cat, dog\na.jpg, 1, 1\nb.jpg, 0, 0\nc.jpg, 1, 0\n")
    assert "'cat', 'dog' of 0 and 1, of which 2 of 3 rows have several 1 or none" in said


def test_cvat_open_images() -> None:
    # <subset>-annotations-human-imagelabels.csv of https://docs.cvat.ai/docs/dataset_management/formats/format-openimages; its fields are
    # LABEL_DESCRIPTION_FIELDS in datumaro/plugins/data_formats/open_images.py, where a score of 0 denies the class
    table = read("ImageID,Source,LabelName,Confidence\na,verification,cat,1\nb,verification,dog,1.0\nb,verification,cat,0\n")
    assert votes(table) == [("a", "cat", ""), ("b", "dog", "")]
    assert problems(table) == [("line 4", "skipped")]
    assert not table.has_users
    boxes = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax\na,manual,cat,1,0,1,0,1\n"
    assert "tells boxes" in refusal(boxes)


@pytest.mark.parametrize(
    ("header", "image", "label"),
    [
        # columns as https://www.kaggle.com/competitions/<name>/data describes them
        ("id,label", "id", "label"),
        ("id,has_cactus", "id", "has_cactus"),  # aerial-cactus-identification
        ("image_id,label", "image_id", "label"),  # cassava-leaf-disease-classification
        ("id_code,diagnosis", "id_code", "diagnosis"),  # aptos2019-blindness-detection
        ("id,breed", "id", "breed"),  # dog-breed-identification
        ("Image,Id", "Image", "Id"),  # humpback-whale-identification
        ("Filename,Class Label", "Filename", "Class Label"),
        ("image,labels", "image", "labels"),  # plant-pathology-2021
    ],
)
def test_kaggles_tables(header: str, image: str, label: str) -> None:
    table = read(f"{header}\n0a1b,cat\n2c3d,dog\n4e5f,cat\n6a7b,dog\n")
    assert (table.image, table.labels) == (image, (label,))
    assert votes(table)[0] == ("0a1b", "cat", "")


def test_a_classs_name_counts_before_its_number() -> None:
    assert read("file,class_id,class\na.png,0,cat\nb.png,1,dog\nc.png,0,cat\n").labels == ("class",)
    assert read("file,label,label_name\na.png,0,cat\nb.png,1,dog\nc.png,0,cat\n").labels == ("label_name",)
    assert read("file,label,category\na.png,cat,animal\nb.png,dog,animal\n").labels == ("label",)
    said = refusal("file,class,target\na.png,cat,1\nb.png,dog,1\nc.png,dog,0\n")
    assert "several columns that may hold the label, 'class', 'target'" in said


def test_mechanical_turk() -> None:
    # columns of a batch's results: those of an assignment (WorkerId, AssignmentStatus: https://docs.aws.amazon.com/AWSMechTurk/latest/
    # AWSMturkAPI/ApiReference_AssignmentDataStructureArticle.html), Input.<variable> and Answer.<field>
    table = read(
        "HITId,WorkerId,AssignmentStatus,Input.image_url,Answer.category.label\n"
        "1,A1,Approved,https://host/p/a.png,cat\n1,A2,Approved,https://host/p/a.png,dog\n2,A1,Rejected,https://host/p/b.png,cat\n",
        label="Answer.category.label",
    )
    assert votes(table) == [("https://host/p/a.png", "cat", "A1"), ("https://host/p/a.png", "dog", "A2")]
    assert problems(table) == [("line 4", "skipped")]
    # forms of crowd elements answer in JSON, by the elements' names
    rows = 'HITId,WorkerId,Input.image_url,Answer.taskAnswers\n1,A1,https://host/a.png,"[{""category"":{""label"":""cat""}}]"\n'
    assert votes(read(rows)) == [("https://host/a.png", "cat", "A1")]


WIDE = "photo,{0},{1},{2}\na.png,cat,cat,dog\nb.png,dog,dog,dog\nc.png,cat,,cat\nd.png,,,\n"


@pytest.mark.parametrize("names", [("ann", "bob", "cy"), ("annotator_1", "annotator_2", "annotator_3"), ("label_1", "label_2", "label_3")])
def test_a_wide_table_has_one_column_an_annotator(names: tuple[str, str, str]) -> None:
    table = read(WIDE.format(*names))
    assert (table.layout, table.has_users) == ("wide", True)
    assert ("a.png", "dog", names[2]) in votes(table)
    assert len(votes(table)) == 8
    assert problems(table) == [("line 5", "malformed")]


def test_wide_tables_of_numbers_and_of_annotators_who_agree_on_zero_and_one() -> None:
    assert read("image,rater1,rater2\na.png,1,1\nb.png,0,0\nc.png,1,0\n").layout == "wide"
    assert read("image,rater_a,rater_b\na.png,4,4\nb.png,7,4\nc.png,7,7\n").layout == "wide"
    unnamed = "image,ann,bob\na.png,4,4\nb.png,7,4\nc.png,7,7\n"
    assert '"noisy_labels.columns={label: [ann, bob]}"' in refusal(unnamed)  # may be features as well
    assert read(unnamed, label=("ann", "bob")).layout == read(unnamed, "wide").layout == "wide"


def test_a_column_that_settles_the_annotators_answers_is_not_one_of_theirs() -> None:
    said = refusal("image,ann,bob,majority\na.png,cat,dog,cat\nb.png,dog,dog,dog\nc.png,cat,cat,cat\n")
    assert "of which 'majority' may be no annotator's" in said
    said = refusal("image,rater1,rater2,label\na.png,cat,dog,cat\nb.png,dog,dog,dog\nc.png,cat,cat,cat\n")
    assert '"noisy_labels.columns={label: label}" or "noisy_labels.columns={label: [rater1, rater2]}"' in said


def test_measurements_are_no_labels() -> None:
    ages = "".join(f"{i}.png,{20 + i % 15}\n" for i in range(45))
    assert '"noisy_labels.columns={label: age}"' in refusal("image,age\n" + ages)  # numbers, under no name that is in use for labels
    assert read("image,age\n" + ages, label="age").labels == ("age",)
    assert "has no column 'label'" in refusal(
        "".join(json.dumps({"file_name": f"{i}.png", "objects": {"bbox": [i]}}) + "\n" for i in range(9))
    )
    said = refusal("image,area,sharpness\na.png,12,0.5\nb.png,13,0.25\nc.png,12,0.75\nd.png,13,0.5\n")
    assert "has no column 'label' (its columns are 'image', 'area', 'sharpness')" in said
    assert '"noisy_labels.columns={label: area}"' in said


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"PK\x03\x04rest", "is a workbook"),
        (b"PAR1rest", "Parquet"),
        ('{"image": "a.png",', "is neither JSON nor JSON lines"),
        ('{"image": "a.png", "label": "cat"}\n{"image": \n', "is neither JSON nor JSON lines (Expecting value: line 1 column 11"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "is a pointer of Git LFS"),
        ("\n<!DOCTYPE html><html>", "is a web page"),
        ('<?xml version="1.0"?><annotations/>', "is XML"),
        ({"images": [], "annotations": [], "categories": []}, "COCO's format"),
        ([1, 2], "holds no records"),
        ("[" * 100_000, "is neither JSON nor JSON lines"),
        ("photo,thumbnail,label\na.png,a_s.png,cat\n", None),
        ("left,right,label\na.png,a_s.png,cat\n", "several columns that name images, 'left', 'right'"),
        ("foo,label\nx,cat\n", "has no column that names images (its columns are 'foo', 'label')"),
    ],
)
def test_what_is_no_table_of_labels_is_refused_in_one_sentence(content: Any, words: str | None) -> None:
    if words is None:
        assert read(content).image == "photo"
    else:
        assert words in refusal(content)


def test_json_objects_by_image() -> None:
    assert votes(read({"a.png": "cat", "b.png": 3})) == [("a.png", "cat", ""), ("b.png", "3", "")]
    assert votes(read({"a.png": {"label": "cat"}, "b.png": {"label": "dog"}})) == [("a.png", "cat", ""), ("b.png", "dog", "")]


def test_columns_that_are_named_are_taken_whatever_the_table_looks_like() -> None:
    table = read("Bild Nr.;Klasse;Wer\n0012;Käfer;Ann\n0013;Ameise;Bo\n", image="bild nr.", label="klasse", user="wer")
    assert votes(table) == [("0012", "Käfer", "Ann"), ("0013", "Ameise", "Bo")]
    assert "has no column 'klass', which noisy_labels.columns names (did you mean 'Klasse'?)" in refusal(
        "Bild;Klasse\na.png;x\n", label="klass"
    )
    assert "\"noisy_labels.columns={image: 'Bild Nr.'}\"" in refusal("Bild Nr.;Klasse\n1;x\n2;x\n")


def test_row_numbers_of_pandas_are_no_column() -> None:
    assert votes(read(",filename,label\n0,a.png,cat\n1,b.png,dog\n")) == [("a.png", "cat", ""), ("b.png", "dog", "")]
    assert votes(read("Unnamed: 0,image,kind\n0,a.png,cat\n1,b.png,dog\n")) == [("a.png", "cat", ""), ("b.png", "dog", "")]
