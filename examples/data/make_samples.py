"""Makes the sample files of this folder: small, random, in the forms that real traces and data sets have.

    python examples/data/make_samples.py

Nothing in them was recorded anywhere. The real files are named in docs/workloads.md.
"""

from __future__ import annotations

import csv
import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
ROWS = 200


def lines(name: str, rows: list[dict[str, Any]]) -> None:
    (HERE / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def table(name: str, header: list[str], rows: list[list[Any]]) -> None:
    with (HERE / name).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def conversations(random: np.random.Generator) -> None:
    """Chats whose rows name the one before; every prompt begins with all blocks of its parent's and of the answer."""
    rows, fresh = [], 10
    for start in np.cumsum(random.exponential(8.0, 60)).tolist():
        parent, t, turn, blocks = -1, start, 1, [1, 2, 3, 4]
        while True:
            own, answer = int(random.integers(1, 20)), int(random.integers(8, 300))
            blocks = [*blocks, *range(fresh, fresh + own)]
            length = 16 * len(blocks) - int(random.integers(0, 16))
            rows.append([round(t, 3), parent, turn, length, answer, blocks])
            # Until they are sorted rows are known by their places.
            parent, fresh = len(rows) - 1, fresh + own
            if random.random() < 0.4:
                break
            said = answer // 16
            blocks = [*blocks, *range(fresh, fresh + said)]
            fresh, t, turn = fresh + said, t + 2 + answer * 0.03 + float(random.lognormal(2, 0.8)), turn + 1
    order = sorted(range(len(rows)), key=lambda row: rows[row][0])
    chat = {row: number for number, row in enumerate(order)}
    lines("conversations.jsonl", [
        {"chat_id": chat[row], "parent_chat_id": chat.get(rows[row][1], -1), "timestamp": rows[row][0],
         "input_length": rows[row][3], "output_length": rows[row][4], "type": "text", "turn": rows[row][2],
         "hash_ids": rows[row][5]}
        for row in order
    ])  # fmt: skip


def main() -> None:
    random = np.random.default_rng(1)
    times = np.cumsum(random.exponential(1.5, ROWS))
    inputs = np.clip(random.lognormal(6, 0.8, ROWS), 20, 6000).astype(int).tolist()
    outputs = np.clip(random.lognormal(3.5, 0.8, ROWS), 1, 400).astype(int).tolist()

    start = datetime(2024, 5, 12, 9)
    stamps = [f"{start + timedelta(seconds=float(t)):%Y-%m-%d %H:%M:%S.%f}+00:00" for t in times]
    table("azure.csv", ["TIMESTAMP", "ContextTokens", "GeneratedTokens"],
          [list(row) for row in zip(stamps, inputs, outputs, strict=True)])  # fmt: skip

    # Conversations that grow: each turn begins with the blocks of the one before.
    chats: list[list[int]] = [[] for _ in range(25)]
    mooncake, fresh = [], 100
    for row in range(ROWS):
        chat = chats[int(random.integers(len(chats)))]
        for _ in range(int(random.integers(1, 3))):
            fresh += 1
            chat.append(fresh)
        ids = [1, *chat[-11:]] if len(chat) < 12 else [1, *chat[:11]]
        length = (len(ids) - 1) * 512 + int(random.integers(1, 513))
        tick = 3000 * int(times[row] // 3)
        mooncake.append({"timestamp": tick, "input_length": length, "output_length": outputs[row], "hash_ids": ids})
        if len(chat) > 11:
            chat.clear()
    lines("mooncake.jsonl", mooncake)

    conversations(np.random.default_rng(2))

    models = random.choice(["ChatGPT", "GPT-4"], ROWS, p=[0.7, 0.3]).tolist()
    logs = random.choice(["Conversation log", "API log"], ROWS, p=[0.8, 0.2]).tolist()
    answers = [0 if random.random() < 0.05 else n for n in outputs]
    header = ["Timestamp", "Model", "Request tokens", "Response tokens", "Total tokens", "Log Type"]
    table("burstgpt.csv", header, [
        [int(t), model, n, m, n + m, log]
        for t, model, n, m, log in zip(times, models, inputs, answers, logs, strict=True)
    ])  # fmt: skip

    for number, (rate, pattern, shape) in enumerate([(0.8, "Gamma", 0.5), (0.1, "Weibull", 0.4)]):
        (HERE / "servegen" / f"chunk-{number}-trace.csv").write_text(
            f"0,{rate},1.4,{pattern},{shape},1.0\n600,{rate / 2},1.4,{pattern},{shape},1.0\n"
        )
        dataset = {"0": {"input_tokens": "{200: 0.5, 900: 0.4, 3000: 0.1}", "output_tokens": "{20: 0.7, 200: 0.3}"}}
        (HERE / "servegen" / f"chunk-{number}-dataset.json").write_text(json.dumps(dataset))

    questions = ["What is a token?", "Name three rivers.", "Why is the sky blue?", "Write a haiku about queues."]
    lines("messages.jsonl", [
        {"messages": [{"role": "system", "content": "Answer in one sentence."}, {"role": "user", "content": question}],
         "max_tokens": 20 + 10 * number}
        for number, question in enumerate(questions)
    ])  # fmt: skip
    lines("requests.jsonl", [
        {"timestamp": 1715504400 + round(float(t), 3), "path": "/v1/chat/completions",
         "body": {"model": "m", "max_tokens": m, "messages": [{"role": "user", "content": questions[row % 4]}]}}
        for row, (t, m) in enumerate(zip(times[:50], outputs, strict=False))
    ])  # fmt: skip
    table("rates.csv", ["seconds", "rate"], [[0, 2], [20, 12], [40, 6], [60, 20], [80, 3]])
    (HERE / "lengths.txt").write_text("".join(f"{n},{m}\n" for n, m in zip(inputs, outputs, strict=True)))


if __name__ == "__main__":
    main()
