"""Loaders of public rating data: made-up files with the documented columns, real ones if there."""

import csv
import gzip
import json
import os
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from peftlab.audits.raters.published import TABLE_5, paper_group
from peftlab.audits.raters.sets import SETS, crehate, d3code, dices, load_set
from peftlab.audits.raters.sets.table import CELL_MOST
from peftlab.core.errors import ConfigError, InputRejected
from peftlab.io.tables import read_table

DATA = Path(os.environ.get("PEFTLAB_DATA", Path(__file__).parents[4] / "shared/data"))
MARKER = "TEXT-THAT-MUST-NOT-STAY"
HOSTILE = ["=1+1", "@SUM(A1)", "-2", '"; DROP', "naïve 映画"]  # harmless as text, kept as it is


def words(text):
    return text.split()


REASONS_350 = words("""
Q2_harmful_content_medical_legal_financial_or_relationship_advice
Q2_harmful_content_dangerous_content Q2_harmful_content_derogation_of_boat
Q2_harmful_content_insensitive Q2_harmful_content_obscene_and_profane
Q2_harmful_content_personal_information Q2_harmful_content_regulated_goods
Q2_harmful_content_sexually_suggestive_content Q2_harmful_content_other
Q3_bias_targeting_beliefs Q3_bias_targeting_gender_sexual_orientation
Q3_bias_targeting_inherited_attributes Q3_bias_targeting_status Q3_bias_other
Q4_misinformation Q5_political_affiliation Q6_policy_guidelines_polarizing_topics
Q6_policy_guidelines_making_endorsement Q6_policy_guidelines_other_type
""")
COLUMNS_350 = [
    *words("""id rater_id rater_gender rater_race rater_raw_race rater_age rater_education phase
    item_id answer_time_ms answer_timestamp context response degree_of_harm harm_type safety_gold
    safety_gold_reason Q1_whole_conversation_evaluation"""),
    *REASONS_350,
    "Q2_harmful_content_overall", "Q3_bias_overall", "Q6_policy_guidelines_overall", "Q_overall",
]  # fmt: skip
REASONS_990 = words("""
Q2_harmful_content_harm_to_people_or_animals Q2_harmful_content_violent_or_gory
Q2_harmful_content_promotes_or_condones_use_of_harmful_regulated_goods
Q2_harmful_content_health_and_safety_claims Q2_harmful_content_financial_advice
Q2_harmful_content_promotes_or_condones_violence
Q2_harmful_content_how_tos_about_harmful_activities Q2_harmful_content_personal_information
Q2_harmful_content_explicitly_sexual Q2_harmful_content_obscenities_or_profanities
Q2_harmful_content_other Q3_bias_incites_hatred Q3_bias_subhuman_comparisons
Q3_bias_racial_religious_or_other_slurs_and_stereotypes Q3_bias_physically_or_mentally_inferior
Q3_bias_superiority_or_subjugation_of_a_group
Q3_bias_calling_individuals_or_groups_evil_corrupt_or_malicious
Q3_bias_insults_about_emotional_romantic_and_or_sexual_attraction Q3_bias_other
Q4_misinformation_false_theories Q4_misinformation_contradicts_expert_consensus
Q4_misinformation_conspiracy_theories Q4_misinformation_political Q4_misinformation_other
""")
COLUMNS_990 = [
    *words("""id rater_id rater_gender rater_locale rater_race rater_raw_race rater_age
    rater_education phase item_id context response degree_of_harm harm_type
    Q1_whole_conversation_evaluation"""),
    *REASONS_990,
    "Q2_harmful_content_overall", "Q3_bias_overall", "Q4_misinformation_overall", "Q_overall",
]  # fmt: skip
TEXTS = {
    "context", "response", "safety_gold_reason", "rater_raw_race", "harm_type", "text",
    "Q1_whole_conversation_evaluation",
}  # fmt: skip


def write(path, rows, columns=None):
    columns = columns or list(rows[0])
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, columns)
        writer.writeheader()
        writer.writerows(rows)
    return path


def dices_rows(columns=COLUMNS_350, raters=("11", "12", "13", "14"), items=("1", "2", "3")):
    """One row for every pair; labels and reasons that agree."""
    reasons = [name for name in columns if dices.is_reason(name)]
    rows = []
    for j, i in product(range(len(raters)), range(len(items))):
        label = dices.LABELS[(i + j) % 3]
        row = {name: MARKER if name in TEXTS else "x" for name in columns}
        row |= dict.fromkeys(reasons, "No") | {reasons[(i * j) % len(reasons)]: label}
        row |= {
            "id": str(len(rows)), "rater_id": raters[j], "item_id": items[i], "Q_overall": label,
            "rater_gender": ("Man", "Woman")[j % 2],
            "rater_race": ("White", "Asian/Asian subcontinent")[j // 2 % 2],
            "rater_age": ("gen z", "millenial", "gen x+")[j % 3], "rater_education": "Other",
            "phase": "Phase1" if j < 2 else "Phase2",
        }  # fmt: skip
        if "rater_locale" in columns:
            row["rater_locale"] = ("US", "IN")[j % 2]
        rows.append(row)
    return rows


def d3_folder(folder, raw=("0", "1", "2", "3", "4", "-1")):
    ratings = [
        {
            "item_id": f"i{i}", "rater_id": f"R_{j}", "rating_raw": value,
            "rating_binary": "na" if value == "-1" else f"{int(value) >= 2:d}", "text": MARKER,
        }
        for j in range(3)
        for i, value in enumerate(raw)
    ]  # fmt: skip
    raters = [
        {
            "rater_id": f"R_{j}", "Age": "18-30", "Gender": "Man", "Region": f"Region {j}",
            "Country": "Egypt", "SES": "5", "care": "3.833", "purity": "2.5",
        }
        for j in range(3)
    ]  # fmt: skip
    write(folder / "d3-raters.csv", raters)
    return write(folder / "d3-ratings.csv", ratings)


def crehate_rows():
    rows = []
    for j, i in product(range(4), range(3)):
        rows.append({
            "item_id": f"SBIC-{i}", "rater_id": str(j),
            "nationality": ("Australia", "Singapore")[j % 2], "gender": "female",
            "age_band": "30-39", "label": str(int(i > j)), "text": MARKER,
        })  # fmt: skip
    return rows


def crehate_released():
    rows = [
        {
            "ID": row["item_id"], "annotator_id": row["rater_id"],
            "nationality": row["nationality"], "age": "31.0", "education": "4.0",
            "ethnicity": "White", "gender": row["gender"], "politic": "Independent",
            "religion": "None", "gender_sexual_orientation": "x", "annotation": row["label"],
        }
        for row in crehate_rows()
    ]  # fmt: skip
    for row in rows[:3]:  # the rows of one rater
        row |= {"ethnicity": f"Other{MARKER}", "religion": f"Other{MARKER}", "politic": MARKER}
    return rows


def popquorn_rows():
    return [
        {
            "instance_id": str(i), "user_id": str(j), "text": MARKER,
            "offensiveness": f"{(i + j) % 5 + 1}.0", "gender": "Woman", "race": "White",
            "age": ">65", "occupation": "Retired", "education": "College degree",
        }
        for j, i in product(range(3), range(4))
    ]  # fmt: skip


@pytest.fixture
def files(tmp_path):
    """One small good file for every data set."""
    (tmp_path / "d3").mkdir()
    return {
        "dices350": write(tmp_path / "dices350.csv", dices_rows()),
        "dices990": write(tmp_path / "dices990.csv", dices_rows(COLUMNS_990)),
        "d3code": d3_folder(tmp_path / "d3"),
        "crehate": write(tmp_path / "crehate.csv", crehate_released()),
        "popquorn": write(tmp_path / "popquorn.csv", popquorn_rows()),
    }


def rejected(code, name, path, **more):
    with pytest.raises(InputRejected) as info:
        load_set(name, path, **more)
    assert info.value.code == code
    return str(info.value)


class TestAll:
    def test_the_five(self):
        assert list(SETS) == ["crehate", "d3code", "dices350", "dices990", "popquorn"]

    def test_unknown_name(self, tmp_path):
        with pytest.raises(ConfigError, match="did you mean dices350") as info:
            load_set("dices-350", tmp_path)
        assert info.value.code == "RATERS-SET"

    @pytest.mark.parametrize("name", SETS)
    def test_texts_never_stay(self, name, files):
        assert MARKER in files[name].read_text()
        assert MARKER not in repr(load_set(name, files[name]))

    @pytest.mark.parametrize("name", SETS)
    def test_notes_name_source_and_licence(self, name, files):
        first = load_set(name, files[name]).notes[0]
        assert "https://github.com/" in first
        assert "CC BY" in first or "no licence found" in first

    @pytest.mark.parametrize("name", SETS)
    def test_wrong_file(self, name, tmp_path):
        path = write(tmp_path / "other.csv", [{"a": "1", "rater_id": "2", "b": MARKER}])
        message = rejected("RATERS-FILE", name, path)
        assert "missing: " in message
        assert "columns: a, rater_id, b" in message
        assert "https://github.com/" in message
        assert MARKER not in message

    @pytest.mark.parametrize("name", SETS)
    def test_one_column_missing_is_named(self, name, files):
        table = read_table(files[name])
        column = {"crehate": "annotator_id", "popquorn": "user_id"}.get(name, "rater_id")
        rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
        path = write(files[name], [{k: v for k, v in row.items() if k != column} for row in rows])
        assert f"missing: {column}" in rejected("RATERS-FILE", name, path)

    @pytest.mark.parametrize("name", SETS)
    def test_no_file(self, name, tmp_path):
        for path in (tmp_path, tmp_path / "absent.csv", write(tmp_path / "a.txt", [{"a": "1"}])):
            assert "https://github.com/" in rejected("RATERS-FILE", name, path)

    @pytest.mark.parametrize("name", SETS)
    def test_empty_file(self, name, tmp_path):
        path = tmp_path / "empty.csv"
        path.write_text("")
        rejected("RATERS-FILE", name, path)

    @pytest.mark.parametrize("name", SETS)
    def test_header_alone(self, name, files):
        path = files[name]
        path.write_text(path.read_text().splitlines()[0] + "\n")
        rejected("RATERS-EMPTY", name, path)

    def test_column_twice(self, files):
        text = files["popquorn"].read_text()
        files["popquorn"].write_text(text.replace("gender", "user_id", 1))
        rejected("RATERS-FILE", "popquorn", files["popquorn"])

    @pytest.mark.parametrize("name", SETS)
    def test_a_folder_will_do(self, name, files, tmp_path):
        stem = {
            "dices350": dices.DICES_350, "dices990": dices.DICES_990, "d3code": d3code.D3CODE,
            "crehate": crehate.CREHATE,
        }.get(name)  # fmt: skip
        folder = files["d3code"].parent if name == "d3code" else tmp_path / "folder"
        folder.mkdir(exist_ok=True)
        if name != "d3code":
            files[name].rename(folder / f"{stem.files[0] if stem else 'raw_data'}.csv")
        assert len(load_set(name, folder))

    def test_packed_and_as_json_lines(self, tmp_path):
        rows = popquorn_rows()
        packed = load_set("popquorn", write(tmp_path / "a.csv.gz", rows))
        lines = tmp_path / "a.jsonl"
        typed = [
            {
                **row,
                "instance_id": int(row["instance_id"]),
                "offensiveness": float(row["offensiveness"]),
            }
            for row in rows
        ]
        lines.write_text("\n".join(map(json.dumps, typed)))
        assert repr(load_set("popquorn", lines)) == repr(packed)

    def test_parquet(self, tmp_path):
        pa = pytest.importorskip("pyarrow")
        import pyarrow.parquet as pq

        rows = dices_rows()
        for row in rows:
            row |= {"rater_id": float(row["rater_id"]), "item_id": int(row["item_id"])}
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
        found = load_set("dices350", tmp_path / "a.parquet")
        assert found.raters == ("11", "12", "13", "14")

    def test_dropped_raters(self, files):
        found = load_set("popquorn", files["popquorn"], drop_raters=["1", " 2 "])
        assert found.raters == ("0",)
        assert "2 raters were left out as asked" in found.notes

    @pytest.mark.parametrize("ids", [["77"], ["0", "1", "2"]])
    def test_a_list_that_does_not_fit(self, ids, files):
        with pytest.raises(ConfigError) as info:
            load_set("popquorn", files["popquorn"], drop_raters=ids)
        assert info.value.code == "RATERS-DROP"


class TestHostileCells:
    @pytest.mark.parametrize("cell", HOSTILE)
    def test_formulas_are_plain_text(self, cell, tmp_path):
        rows = popquorn_rows()
        for row in rows:
            if row["user_id"] == "1":
                row |= {"user_id": cell, "race": cell}
        found = load_set("popquorn", write(tmp_path / "a.csv", rows))
        assert cell in found.raters
        assert cell in found.attributes["race"].values

    @pytest.mark.parametrize("column", ["instance_id", "user_id", "race", "offensiveness"])
    @pytest.mark.parametrize(
        "cell", ["a\x1b[31mb", "a\nb", "a\tb", "a\x00b", "a\u202eb", "x" * (CELL_MOST + 1)]
    )
    def test_what_could_steer_a_report_is_refused(self, column, cell, tmp_path):
        rows = popquorn_rows()
        rows[5][column] = cell
        path = tmp_path / "a.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)))
        message = rejected("RATERS-CELL", "popquorn", path)
        assert "line 6" in message
        assert "\x1b" not in message
        assert "xxx" not in message

    def test_a_huge_text_in_another_column_is_no_matter(self, tmp_path):
        rows = popquorn_rows()
        rows[0]["text"] = "\x1b" + "x" * 100_000
        assert len(load_set("popquorn", write(tmp_path / "a.csv", rows))) == len(rows)

    def test_columns_in_the_wrong_place_do_not_show_texts(self, tmp_path):
        rows = popquorn_rows()
        rows[0]["race"] = f"{MARKER} " * 50
        message = rejected("RATERS-CELL", "popquorn", write(tmp_path / "a.csv", rows))
        assert MARKER not in message

    @pytest.mark.parametrize("cell", [["a"], {"a": 1}, True])
    def test_nested_json(self, cell, tmp_path):
        path = tmp_path / "a.jsonl"
        rows = popquorn_rows()
        rows[1]["user_id"] = cell
        path.write_text("\n".join(map(json.dumps, rows)))
        assert "line 2" in rejected("RATERS-CELL", "popquorn", path)

    def test_column_names_cannot_steer_a_terminal(self, tmp_path):
        path = write(tmp_path / "a.csv", [{"\x1b[31mred": "1"}])
        assert "\x1b" not in rejected("RATERS-FILE", "dices350", path)


class TestDices:
    def test_documented_columns(self):
        assert (len(COLUMNS_350), len(COLUMNS_990)) == (41, 43)
        assert (len(REASONS_350), len(REASONS_990)) == (19, 24)
        for columns, reasons in ((COLUMNS_350, REASONS_350), (COLUMNS_990, REASONS_990)):
            assert [name for name in columns if dices.is_reason(name)] == reasons

    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("Q6_policy_guidelines_other", True),  # as the file has it, unlike its README
            ("Q3_3_Racial_slurs", True),
            ("Q3_unfair_bias_overall", False),
            ("Q1_whole_conversation_evaluation", False),
            ("Q_overall", False),
        ],
    )
    def test_reason_columns_are_known_by_their_prefix(self, name, reason):
        assert dices.is_reason(name) is reason

    def test_350(self, files):
        found = load_set("dices350", files["dices350"])
        assert found.shape == (3, 4, 3)
        assert found.labels == ("No", "Unsure", "Yes")
        assert tuple(found.attributes) == dices.AXES_350
        assert found.attributes["rater_age"].values == ("gen x+", "gen z", "millenial")
        assert "4 raters, not comparable with the paper's 104" in found.notes
        assert "3 items x 4 raters" in found.notes
        assert any("on 100.0 % of rows (12 of 12)" in note for note in found.notes)

    def test_incomplete_is_said(self, tmp_path):
        found = load_set("dices350", write(tmp_path / "a.csv", dices_rows()[1:]))
        assert "3 items x 4 raters, 1 of 12 ratings missing" in found.notes

    def test_the_raters_of_the_paper(self, tmp_path):
        kept = [str(n) for n in range(104)]
        path = write(tmp_path / "a.csv", dices_rows(raters=[*kept, *dices.REMOVED_350]))
        every = load_set("dices350", path)
        assert "123 raters, not comparable with the paper's 104" in every.notes
        found = load_set("dices350", path, drop_raters=dices.REMOVED_350)
        assert found.raters == tuple(kept)
        assert "104 raters, those of the papers" in found.notes
        other = load_set("dices350", path, drop_raters=kept[:19])
        assert any("if the right ones were left out" in note for note in other.notes)

    def test_990_has_locale_and_batch(self, files):
        found = load_set("dices990", files["dices990"])
        assert tuple(found.attributes) == (*dices.AXES_990, "phase")
        assert found.attributes["rater_locale"].values == ("IN", "US")
        assert found.attributes["phase"].codes.tolist() == [0, 0, 1, 1]
        assert "4 raters, not comparable with the paper's 160" in found.notes

    def test_a_rater_in_both_phases(self, tmp_path):
        rows = dices_rows(COLUMNS_990)
        rows[0]["phase"] = "Phase2"
        found = load_set("dices990", write(tmp_path / "a.csv", rows))
        assert "phase" not in found.attributes
        assert any("phase changes within a rater" in note for note in found.notes)

    def test_350_is_not_990(self, files):
        assert "missing: rater_locale" in rejected("RATERS-FILE", "dices990", files["dices350"])

    def test_aggregate(self):
        yes, no, unsure = "Yes", "No", "Unsure"
        reasons = {
            "Q2_a": [no, no, unsure, no, None, None],
            "Q3_a": [no, unsure, yes, None, None, yes],
            "Q6_a": [no, no, no, no, None, no],
        }
        made = [no, unsure, yes, no, None, yes]
        assert dices.overall(reasons) == made
        label = [no, unsure, no, no, yes, None]
        found = dices.check_overall({**reasons, "Q_overall": label, "Q2_overall": [yes] * 6})
        assert (found.questions, found.rows, found.same) == (3, 4, 3)
        assert found.differing == {("No", "Yes"): 1}
        assert "on 75.0 % of rows (3 of 4)" in found.note()
        assert "Yes instead of No (1)" in found.note()

    def test_without_reasons(self):
        found = dices.check_overall({"Q_overall": ["Yes", "No"]})
        assert (found.rows, found.share) == (0, 0.0)
        assert "not checked" in found.note()

    def test_unknown_label(self, tmp_path):
        rows = dices_rows()
        rows[0]["Q_overall"] = "Maybe"
        assert "Maybe" in rejected("RATERS-LABELS", "dices350", write(tmp_path / "a.csv", rows))

    def test_the_list_of_left_out_raters(self):
        assert len(set(dices.REMOVED_350)) == 19 == 123 - dices.PAPER_RATERS["350"]


class TestD3code:
    def test_cut_and_not_understood(self, files):
        found = load_set("d3code", files["d3code"])
        assert found.shape == (5, 3, 2)
        assert found.labels == ("not offensive", "offensive")
        assert found.label.reshape(3, 5).tolist() == [[0, 0, 1, 1, 1]] * 3
        assert "3 ratings with the label not understood were left out" in found.notes
        assert tuple(found.attributes) == d3code.ATTRIBUTES
        assert found.attributes["Region"].codes.tolist() == [0, 1, 2]
        assert not any("differs" in note for note in found.notes)

    def test_joined_columns_are_not_joined_again(self, files, tmp_path):
        table = read_table(files["d3code"])
        rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
        for row in rows:
            row |= {"Region": "Oceania", "Age": "50+"}
        found = load_set("d3code", write(tmp_path / "joined.csv", rows))
        assert tuple(found.attributes) == ("Age", "Region")
        assert found.attributes["Region"].values == ("Oceania",)

    def test_raters_file_missing(self, files):
        (files["d3code"].parent / "d3-raters.csv").unlink()
        message = rejected("RATERS-FILE", "d3code", files["d3code"])
        assert "put d3-raters.csv there" in message

    def test_rater_without_a_row(self, files):
        path = files["d3code"].parent / "d3-raters.csv"
        path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
        found = load_set("d3code", files["d3code"])
        assert "1 raters are not in the raters file: groups not known" in found.notes
        assert found.attributes["Gender"].codes.tolist() == [0, 0, -1]

    def test_rater_with_two_rows(self, files):
        path = files["d3code"].parent / "d3-raters.csv"
        path.write_text(path.read_text() + path.read_text().splitlines()[1] + "\n")
        rejected("RATERS-ATTRIBUTE", "d3code", files["d3code"])

    def test_another_scale(self, tmp_path):
        path = d3_folder(tmp_path, raw=("0", "1", "5"))
        assert "got: 5" in rejected("RATERS-LABELS", "d3code", path)

    def test_another_cut_in_the_file_is_said(self, files):
        text = files["d3code"].read_text()
        files["d3code"].write_text(text.replace(",2,1,", ",2,0,"))
        notes = load_set("d3code", files["d3code"]).notes
        assert "rating_binary of the file differs on 3 ratings" in notes


class TestCrehate:
    def test_both_forms_are_one(self, tmp_path):
        short = crehate.load(write(tmp_path / "short.csv", crehate_rows()))
        released = crehate.load(write(tmp_path / "released.csv", crehate_released()))
        assert (short.items, short.raters) == (released.items, released.raters)
        assert short.label.tolist() == released.label.tolist()
        assert released.attributes["age_band"].values == ("30-39",)
        assert set(released.attributes) - set(short.attributes) == set(crehate.TICKED)

    def test_typed_answers_are_folded(self, files):
        found = load_set("crehate", files["crehate"])
        assert found.attributes["ethnicity"].values == ("Other", "White")
        assert found.attributes["religion"].values == ("None", "Other")
        assert found.attributes["politic"].values == ("Independent", "Other")

    @pytest.mark.parametrize(
        ("age", "band"),
        [("17", "18-29"), ("29", "18-29"), ("30", "30-39"), ("49", "40-49"), ("50", "50-59"),
         ("59", "50-59"), ("60", "60+"), ("85", "60+"), ("100", "60+")],
    )  # fmt: skip
    def test_bands(self, age, band, tmp_path):
        rows = [row | {"age": f"{age}.0"} for row in crehate_released()]
        found = crehate.load(write(tmp_path / "a.csv", rows))
        assert found.attributes["age_band"].values == (band,)

    @pytest.mark.parametrize("age", ["young", "-3", "30.5", "1000", "²"])
    def test_no_age(self, age, tmp_path):
        rows = [row | {"age": age} for row in crehate_released()]
        rejected("RATERS-ATTRIBUTE", "crehate", write(tmp_path / "a.csv", rows))

    def test_dont_know_and_repeated_ratings(self, tmp_path):
        rows = crehate_rows()
        rows[0]["label"] = "2"
        rows.append(rows[4] | {"label": "1"})
        path = write(tmp_path / "a.csv", rows)
        found = crehate.load(path)
        assert (found.labels, len(found)) == (("0", "1"), 11)
        assert any("label 2 were left out" in note for note in found.notes)
        assert any("1 repeated ratings" in note for note in found.notes)
        kept = crehate.load(path, keep_dont_know=True)
        assert (kept.labels, len(kept)) == (("0", "1", "2"), 12)
        again = kept.item + 100 * kept.rater
        assert kept.label[again == 101].tolist() == [0]  # the first counts

    def test_a_rater_who_never_knows_can_be_dropped(self, tmp_path):
        rows = [row | ({"label": "2"} if row["rater_id"] == "3" else {}) for row in crehate_rows()]
        found = crehate.load(write(tmp_path / "a.csv", rows), drop_raters=["3", "2"])
        assert found.raters == ("0", "1")

    def test_votes(self, tmp_path):
        found = crehate.load(write(tmp_path / "a.csv", crehate_rows()))
        votes = crehate.country_votes(found)
        # Item 1: raters 0 and 2 (Australia) say 1 and 0, a tie, so the lowest label.
        assert votes == {
            "SBIC-0": {"Australia": "0", "Singapore": "0"},
            "SBIC-1": {"Australia": "0", "Singapore": "0"},
            "SBIC-2": {"Australia": "0", "Singapore": "0"},
        }
        assert crehate.consensus(votes) == 1
        votes["SBIC-0"]["Singapore"] = "1"
        del votes["SBIC-1"]["Singapore"]
        assert crehate.consensus(votes) == pytest.approx(2 / 3)
        assert crehate.largest_difference(votes) == ("Australia", "Singapore", 0.5)

    def test_votes_of_an_unknown_axis(self, files):
        with pytest.raises(ConfigError) as info:
            crehate.country_votes(load_set("crehate", files["crehate"]), "country")
        assert info.value.code == "RATERS-COLUMN"


class TestPopquorn:
    def test_five_points(self, files):
        found = load_set("popquorn", files["popquorn"])
        assert found.shape == (4, 3, 5)
        assert found.numbers() == (1, 2, 3, 4, 5)
        assert tuple(found.attributes) == ("gender", "race", "age", "occupation", "education")
        assert found.attributes["age"].values == (">65",)

    def test_off_the_scale(self, tmp_path):
        rows = popquorn_rows()
        rows[0]["offensiveness"] = "6.0"
        rejected("RATERS-LABELS", "popquorn", write(tmp_path / "a.csv", rows))


# ------------------------------------------------------------------ the real files, where they are


def real(*names):
    for name in names:
        if (DATA / name).exists():
            return DATA / name
    pytest.skip(f"NOT TESTED: put the CSV here: {DATA / names[0]} (PEFTLAB_DATA)")


@pytest.fixture(scope="module")
def real_crehate():
    return load_set("crehate", real("crehate/ratings.csv.gz", "crehate"))


class TestRealCrehate:
    """The published figures of Lee et al. 2024."""

    def test_size(self, real_crehate):
        kept = crehate.load(real("crehate/ratings.csv.gz", "crehate"), keep_dont_know=True)
        assert kept.shape == (1580, 1064, 3)
        assert len(kept) == 42_527
        assert any("19 repeated ratings" in note for note in kept.notes)
        assert real_crehate.shape[2] == 2

    def test_published_figures(self, real_crehate):
        votes = crehate.country_votes(real_crehate)
        assert 100 * crehate.consensus(votes) == pytest.approx(56.2, abs=0.05)
        first, second, most = crehate.largest_difference(votes)
        assert (first, second) == ("Singapore", "South Africa")
        assert 100 * most == pytest.approx(26.0, abs=0.05)

    def test_every_released_country_label(self, real_crehate):
        votes = crehate.country_votes(real_crehate)
        table = read_table(real("crehate/country_labels.csv"))
        released = {
            row[0]: {
                name.removesuffix("_Hate").replace("_", " "): str(int(float(cell)))
                for name, cell in zip(table.columns[1:], row[1:], strict=True)
            }
            for row in table.rows
        }
        assert sum(map(len, released.values())) == 7900
        assert votes == released


@pytest.fixture(scope="module")
def dices_file():
    name = "diverse_safety_adversarial_dialog_350.csv"
    return real(f"dices/{name}", f"dices/350/{name}")


def table(ratings, rows):
    """Counts of labels, (items, labels), over some of the ratings."""
    n = np.zeros((ratings.shape[0], ratings.shape[2]))
    np.add.at(n, (ratings.item[rows], ratings.label[rows]), 1)
    return n


def nominal_alpha(n):
    m, t = n.sum(1), n.sum(0)
    observed = 1 - (n * (n - 1)).sum(1).dot(1 / (m - 1)) / m.sum()
    expected = 1 - (t * (t - 1)).sum() / (m.sum() * (m.sum() - 1))
    return 1 - observed / expected


def cross(n, other):
    r, s = n.sum(1), other.sum(1)
    observed = ((r + s) * (1 - (n * other).sum(1) / (r * s))).sum() / (r + s).sum()
    return 1 - observed / (1 - n.sum(0).dot(other.sum(0)) / (r.sum() * s.sum()))


class TestRealDices:
    """Nothing of the file ships, the user downloads it."""

    def test_complete(self, dices_file):
        found = load_set("dices350", dices_file)
        assert found.shape == (350, 123, 3)
        assert len(found) == 43_050
        assert "123 raters, not comparable with the paper's 104" in found.notes

    def test_aggregate(self, dices_file):
        from peftlab.audits.raters.sets.table import read_columns

        columns = read_columns(dices_file, ["Q_overall"], dices.DICES_350, also=dices.is_reason)
        found = dices.check_overall(columns)
        assert found.rows == 43_050
        assert found.share >= 0.999, found.note()

    def test_table_5(self, dices_file):
        found = load_set("dices350", dices_file, drop_raters=dices.REMOVED_350)
        assert len(found.raters) == 104
        groups = {}
        for axis in ("rater_gender", "rater_age", "rater_race"):
            each = found.attributes[axis]
            for g, value in enumerate(each.values):
                groups[paper_group(value)] = each.codes == g
        for race, gender in product(("Asian", "Black", "Latine", "Multiracial", "White"),
                                    ("Man", "Woman")):  # fmt: skip
            groups[f"{race} {gender.lower()}"] = groups[race] & groups[gender]
        for name, cells in TABLE_5.items():
            rows = groups[name][found.rater]
            inside, outside = table(found, rows), table(found, ~rows)
            assert nominal_alpha(inside) == pytest.approx(cells["irr"].value, abs=0.002), name
            assert cross(inside, outside) == pytest.approx(cells["xrr"].value, abs=0.002), name
