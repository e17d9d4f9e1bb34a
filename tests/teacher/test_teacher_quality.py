"""What is poor is caught, and what is right is not: by examples, which also set the threshold of support."""

from __future__ import annotations

import pytest

from tunesmith.teacher import quality
from tunesmith.teacher.quality import SUPPORT, fault_of, question_fault, same_language, support

ENGLISH = """PolarDB stores its data in PolarStore, a distributed block store that keeps three copies of every block.
A cluster has one primary node and up to 15 read-only nodes, which share that storage. Adding a read-only
node takes about 5 minutes, whatever the size of the database, because no data is copied. Backups are
snapshots of the storage; they are kept for 7 days unless you choose a longer period, and restoring 1 TB
takes some 40 minutes."""
SUPPORTED = [
    ("How many read-only nodes may a cluster have?", "A cluster has one primary node and up to 15 read-only nodes."),
    ("How long does it take to add a read-only node?", "About 5 minutes. The size of the database does not matter, as "
     "no data needs to be copied."),
    ("Where does PolarDB store its data?", "It is stored in PolarStore, which is a distributed block store with three "
     "copies of each block."),
    ("How many copies of a block are kept?", "3 copies of every block are kept."),
    ("For how long are backups kept?", "Backups are kept for 7 days by default; you can choose a longer period."),
    ("What are backups?", "They are storage snapshots."),
    ("Do nodes share the storage?", "Yes."),
]  # fmt: skip
INVENTED = [
    ("How many read-only nodes may a cluster have?", "A cluster may have up to 32 read-only nodes."),
    ("Where does PolarDB store its data?", "It is written to local NVMe disks and replicated with Paxos to Singapore."),
    ("What are backups?", "Logical dumps, exported nightly with mysqldump and uploaded to a bucket of your account."),
    ("How long does restoring take?", "Restoring 1 TB takes 2 hours and 40 minutes."),
    (
        "Why is adding a node fast?",
        "Thanks to machine learning that predicts the workload and warms caches beforehand.",
    ),
]
CHINESE = (
    "PolarDB 的数据存放在 PolarStore 中，这是一个分布式块存储，每个数据块保存三个副本。一个集群有一个主节点，"
    "最多可以有 15 个只读节点，它们共享同一份存储。增加一个只读节点大约需要 5 分钟，与数据库的大小无关，"
    "因为不需要复制数据。备份是存储的快照，默认保留 7 天。"
)
SUPPORTED_ZH = [
    ("一个集群最多有多少个只读节点？", "一个集群最多可以有 15 个只读节点。"),
    ("增加只读节点需要多长时间？", "大约需要 5 分钟，和数据库大小无关，因为不用复制数据。"),
    ("PolarDB 的数据存放在哪里？", "存放在分布式块存储 PolarStore 中，每个数据块有 3 个副本。"),
    ("备份会保留多久？", "备份默认保留 7 天。"),
]
INVENTED_ZH = [
    ("一个集群最多有多少个只读节点？", "最多可以有 32 个只读节点。"),
    ("PolarDB 的数据存放在哪里？", "写入本地固态硬盘，再通过共识协议同步到异地机房。"),
    ("备份是怎样做的？", "每天凌晨用逻辑导出工具生成文件，再上传到对象仓库归档。"),
]


@pytest.mark.parametrize(("question", "answer"), SUPPORTED)
def test_an_answer_from_its_passage_is_supported(question, answer):
    assert support(answer, ENGLISH, question) >= SUPPORT
    assert fault_of(answer, question) is None


@pytest.mark.parametrize(("question", "answer"), INVENTED)
def test_an_invented_answer_is_not(question, answer):
    assert support(answer, ENGLISH, question) < SUPPORT


@pytest.mark.parametrize(("question", "answer"), SUPPORTED_ZH)
def test_a_chinese_answer_from_its_passage_is_supported(question, answer):
    assert support(answer, CHINESE, question) >= SUPPORT
    assert fault_of(answer, question) is None


@pytest.mark.parametrize(("question", "answer"), INVENTED_ZH)
def test_an_invented_chinese_answer_is_not(question, answer):
    assert support(answer, CHINESE, question) < SUPPORT


def test_the_threshold_stands_between_the_two_with_room_on_both_sides():
    right = [support(a, ENGLISH, q) for q, a in SUPPORTED] + [support(a, CHINESE, q) for q, a in SUPPORTED_ZH]
    wrong = [support(a, ENGLISH, q) for q, a in INVENTED] + [support(a, CHINESE, q) for q, a in INVENTED_ZH]
    assert max(wrong) + 0.1 < SUPPORT <= min(right) - 0.05, (right, wrong)


@pytest.mark.parametrize(("said", "there"), [
    ("It holds 1200 rows.", "1,200 rows"), ("Two nodes", "2 nodes"), ("12.50 euros", "12.50 euros"),
    ("5 of them", "five nodes"), ("1. Stop it.\n2. Start it.", "stop start"),
    ("三个副本", "3 个副本"),
])  # fmt: skip
def test_a_number_is_the_same_however_it_is_written(said, there):
    assert quality.numbers_of(said) <= quality.numbers_of(there, spelled=True)


@pytest.mark.parametrize(("answer", "fault"), [
    ("", "empty"), ("...", "empty"),
    ("I'm sorry, but I can't help with that.", "refusal"), ("NOT ANSWERED", "refusal"), ("没有回答", "refusal"),
    ("The passage does not mention the price.", "refusal"), ("抱歉，文中没有提到。", "refusal"),
    ("As an AI language model, I have no preferences.", "speaks as an AI"),
    ("作为一个人工智能，我很乐意。", "speaks as an AI"),
    ("According to the passage, it takes 5 minutes.", "mentions the text"),
    ("As described above, it takes 5 minutes.", "mentions the text"),
    ("根据文章，需要 5 分钟。", "mentions the text"), ("上文指出需要 5 分钟。", "mentions the text"),
    ("这需要大约五分钟的时间，与大小无关。", "another language"),
    ("Das dauert etwa fünf Minuten, und die Größe der Datenbank ist dabei nicht von Bedeutung.", "another language"),
    ("It takes 5 minutes.", None), ("```sql\nSELECT count(*) FROM t;\n```", None), ("PolarStore", None), ("5", None),
    ("Yes, you can: open the context menu, and choose Text above image.", None),
    ("You're right, I was too long. Here's the node:" + " It takes 5 minutes." * 40, "speaks of the request"),
    ("I'm sorry for the confusion." + " It takes 5 minutes." * 40, "speaks of the request"),
    ("Sure! Here is a shorter version of it: 5 minutes.", "speaks of the request"),
    ("以下是修改后的回答：默认保留 7 天。", "speaks of the request"),
    ("Here is the shortest way: open the menu.", None), ("You are charged for each node.", None),
    ("Say sorry to the guest and offer a new room.", None),
])  # fmt: skip
def test_what_is_wrong_with_an_answer_by_itself_has_a_name(answer, fault):
    chinese = any("\u4e00" <= c <= "\u9fff" for c in answer) and fault != "another language"
    question = "备份会保留多久呢？" if chinese else "How long does it take to add the node to a cluster that is in use?"
    assert fault_of(answer, question) == fault


def test_a_question_must_be_clear_to_somebody_who_has_not_read_the_text():
    assert question_fault("What does the author say in this article?", ENGLISH) == "mentions the text"
    assert question_fault("What is the passage about?", ENGLISH) == "mentions the text"
    assert question_fault("How wide is the passage?", "Ships fit through the passage.") is None
    assert question_fault("本文介绍了什么？", CHINESE) == "mentions the text"
    assert question_fault("How long are backups kept?", CHINESE) == "another language"
    assert question_fault("?", ENGLISH) == "empty"
    assert question_fault("first wording", ENGLISH, 'In this form: "first wording"') == "repeats the prompt"
    assert question_fault("The next question,", "Where is it?", 'Reply: "the next question"') == "repeats the prompt"
    assert question_fault("How long are backups kept?", ENGLISH) is None


def test_languages_are_told_by_script_and_by_frequent_words():
    assert same_language("PolarDB 使用 PolarStore 存储", "数据存放在哪里？")
    assert not same_language("データはどこに保存されますか", "数据存放在哪里？")
    assert not same_language("Où sont les données et dans quel ordre est-ce que le serveur les lit ?",
                             "Where is the data and in which order is it read by the server?")  # fmt: skip
    assert same_language("`SELECT 1`", "数据存放在哪里？")
