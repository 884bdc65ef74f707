"""Problems with reference answers and a tokenizer's chat template → packed rows with the loss on the answers."""

from pathlib import Path

from modelmill.tasks.align.chat import open_chat_format
from modelmill.tasks.anneal.config import InstructionData
from modelmill.tasks.lm.rows import MaskedRows
from modelmill.tasks.verify.problems import problem_set


def instruction_rows(tokenizer: Path, config: InstructionData, *, seed: int, pad_token_id: int) -> MaskedRows:
    """Training problems as whole conversations, several in a row.

    Raises:
        ContractError: the tokenizer has no chat template that marks the assistant's tokens.
    """
    problems = problem_set(
        "train", config.number, seed=f"{seed}/anneal", difficulty=config.difficulty, families=config.families
    )
    questions, answers = [problem.prompt for problem in problems], [problem.answer for problem in problems]
    examples = open_chat_format(tokenizer).examples(questions, answers)
    return MaskedRows(examples, seed=seed, pad_token_id=pad_token_id, name="instructions")
