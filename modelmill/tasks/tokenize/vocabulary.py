"""What every vocabulary of the line shares: special tokens with their ids, and how text is cut before merging."""

BEGIN_OF_TEXT = "<|begin_of_text|>"
END_OF_TEXT = "<|end_of_text|>"
PAD = "<|pad|>"
START_HEADER = "<|start_header|>"
END_HEADER = "<|end_header|>"
END_OF_TURN = "<|eot|>"
RESERVED = tuple(f"<|reserved_{number}|>" for number in range(10))
# In the order of their ids, from 0.
SPECIAL_TOKENS = (BEGIN_OF_TEXT, END_OF_TEXT, PAD, START_HEADER, END_HEADER, END_OF_TURN, *RESERVED)
MIN_VOCABULARY = len(SPECIAL_TOKENS) + 256

# Merges never cross these pieces: an English contraction; letters with the one character before them; a single digit
# (Baichuan, Llama: numbers are spelt out digit by digit); other characters with the space before them and the line
# ends after them; line ends with the space before them; other space, the last one left for the word that follows.
PIECES = (
    r"'(?:[sdmtSDMT]|[lL][lL]|[vV][eE]|[rR][eE])"
    r"|[^\r\n\p{L}\p{N}]?\p{L}+"
    r"|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+"
    r"|\s+(?!\S)"
    r"|\s+"
)
