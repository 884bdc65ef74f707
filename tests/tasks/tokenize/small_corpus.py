"""Rows as curate writes them: four kinds of text in three domains, a tenth held out."""

import pyarrow as pa

SENTENCES = [
    "The grinder turns wheat into flour, and flour into bread.",
    "def mill(wheat): return wheat * 0.75  # 25% is bran",
    "数据经过清洗、去重和分词，最后变成训练样本。",
    "Prices: 1200, 340 and 5.50 euros;\n\n\tit's what they'll pay — isn't it?",
]
MIXTURE = {"prose": 0.5, "code": 0.25, "chinese": 0.25}


def corpus_table(part: int) -> pa.Table:
    rows = [
        {
            "id": f"{part}-{number}",
            "text": f"{SENTENCES[number % 4]} Number {number}. " * (1 + number % 5),
            "language": "zh" if number % 4 == 2 else "en",
            "domain": ("prose", "code", "chinese", "prose")[number % 4],
            "split": "validation" if number % 10 == 9 else "train",
        }
        for number in range(60)
    ]
    return pa.Table.from_pylist(rows)
