"""The bench of archive readers: every tool reads the same responses, and damage costs ours one."""

from modelmill.flows.benches.archives import measure


def test_all_readers_find_the_same_responses():
    rows = measure(num_records=10)
    assert [(row.tool, row.quality["responses"]) for row in rows] == [
        ("modelmill", 10),
        ("modelmill", 9),
        ("fastwarc", 10),
        ("warcio", 10),
    ]
    assert rows[1].quality["damages"] == 1
    assert all(row.rate and row.unit == "responses/s" for row in rows)
