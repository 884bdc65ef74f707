"""Replies, pairs, selection and their files."""

from dataclasses import replace
from pathlib import Path

from modelmill.tasks.align.chat import ChatFormat
from modelmill.tasks.align.pairs import Reply, judge_samples, make_pairs, select_replies
from modelmill.tasks.align.records import read_pairs, read_replies, write_pairs, write_replies
from modelmill.tasks.stage import Sample
from modelmill.tasks.verify.problem import Problem

PROBLEMS = [
    Problem("sorting", "Sort up: 312", "123", "Sort up 312", r"\w{3}"),
    Problem("sorting", "Sort up: 21", "12", "Sort up 21", r"\w{2}"),
]


def replies_of(chat: ChatFormat, texts: list[list[str]], finished: bool = True) -> list[Reply]:
    samples = [
        [Sample([*chat.tokenizer.encode(text), chat.end_of_turn], text, -1.0, finished) for text in drawn]
        for drawn in texts
    ]
    return judge_samples(PROBLEMS, chat.prompts([problem.prompt for problem in PROBLEMS]), samples)


def test_an_unfinished_reply_is_never_right(chat: ChatFormat):
    assert [reply.correct for reply in replies_of(chat, [["123"], ["12"]])] == [True, True]
    assert [reply.correct for reply in replies_of(chat, [["123"], ["12"]], finished=False)] == [False, False]


def test_pairs_set_right_against_wrong_of_the_same_problem(chat: ChatFormat):
    replies = replies_of(chat, [["123", "321", "123", "321", "111"], ["21", "22"]])
    pairs = make_pairs(PROBLEMS, replies, chat, 2, seed=1)
    told = [
        (pair.problem, *(chat.tokenizer.decode(each[:-1]) for each in (pair.chosen, pair.rejected))) for pair in pairs
    ]
    assert sorted(told) == [(0, "123", "111"), (0, "123", "321"), (1, "12", "21"), (1, "12", "22")]
    # Nobody solved the second problem, so its reference answer is the better reply.
    assert [pair.edited for pair in pairs] == [pair.problem == 1 for pair in pairs]
    assert pairs == make_pairs(PROBLEMS, replies, chat, 2, seed=1)
    assert len(make_pairs(PROBLEMS, replies, chat, 1, seed=1)) == 2


def test_all_right_gives_no_pairs(chat: ChatFormat):
    assert make_pairs(PROBLEMS, replies_of(chat, [["123"], ["12"]]), chat, 2, seed=1) == []


def test_the_best_verified_reply_is_selected_or_the_reference(chat: ChatFormat):
    replies = replies_of(chat, [["1 23", "123", " 123", "321"], ["21", "22"]])
    scored = [replace(reply, reward=reward) for reply, reward in zip(replies, [0, 1, 2, 9, 9, 9], strict=True)]
    selected, sampled = select_replies(PROBLEMS, scored, chat)
    assert [chat.tokenizer.decode(each) for each in selected] == [" 123<|eot|>", "12<|eot|>"]
    assert sampled == 1


def test_replies_and_pairs_survive_their_files(chat: ChatFormat, tmp_path: Path):
    replies = [replace(reply, reward=0.5) for reply in replies_of(chat, [["123", "321"], ["21"]])]
    pairs = make_pairs(PROBLEMS, replies, chat, 2, seed=1)
    write_replies(tmp_path / "replies.parquet", PROBLEMS, replies)
    write_pairs(tmp_path / "pairs.parquet", PROBLEMS, pairs)
    assert read_replies(tmp_path / "replies.parquet") == replies
    assert read_pairs(tmp_path / "pairs.parquet") == pairs
