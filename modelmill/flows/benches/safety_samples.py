"""A seed → invented documents, labelled unsafe (advertising of pornography and gambling) or not, English and Chinese.

Half of the sentences and words, by position in the lists below, are for fitting and the other half for measuring, so
that no sentence or unsafe word is in both. Among the safe documents are those that use the same words for what they
are about: medicine, law, research, news, nature, art. Sentences are the project's own (Apache-2.0).
"""

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class LabelledText:
    """A document and whether it should be dropped."""

    text: str
    unsafe: bool


_UNSAFE_WORDS = {
    "en": (
        "porn",
        "xxx",
        "milf",
        "blowjob",
        "casino",
        "jackpot",
        "slots",
        "nude",
        "hentai",
        "sportsbook",
        "creampie",
        "camgirls",
        "roulette",
        "threesome",
        "baccarat",
        "horny",
        "pornstars",
        "freespins",
        "escorts",
        "webcam sex",
    ),
    "zh": (
        "色情",
        "裸聊",
        "博彩",
        "赌场",
        "百家乐",
        "老虎机",
        "时时彩",
        "一夜情",
        "黄片",
        "六合彩",
        "约炮",
        "菠菜平台",
    ),
}
_UNSAFE = {
    "en": (
        "Watch free {} videos in full HD with no sign up.",
        "The hottest {} and {} action is waiting for you tonight.",
        "Claim your {} bonus now and double the first deposit!",
        "Our {} {} site pays out in minutes, play and win big.",
        "Click here for {} pictures, updated every hour.",
        "Join thousands of players at the best online {} of the year.",
        "Real {} girls near you want to chat right now.",
        "Get 200 free spins on {} when you register today.",
        "Download {} clips, uncensored and without limits.",
        "Top {} tips and {} odds for this weekend, bet live.",
        "Amateur {} movies, {} galleries and live shows.",
        "Deposit ten dollars, get fifty to spend on {}.",
    ),
    "zh": (
        "免费观看{}视频，高清无码。",
        "{}平台注册就送彩金，提款秒到。",
        "最新{}网址，{}天天更新。",
        "真人{}在线，二十四小时客服。",
        "同城{}，美女上门服务。",
        "{}官网下载，首存送百分之百。",
        "老牌{}信誉平台，{}稳赚不赔。",
        "点击进入{}专区，精彩不断。",
    ),
}
_SAFE = {
    "en": (
        "The study found that patients with {} related problems asked their doctor for help late.",
        "Regulators fined the operator of a {} after an investigation by the gambling commission.",
        "The painting shows a nude figure, which the museum lent to an exhibition in the spring.",
        "Police charged two men over a {} website that had cheated hundreds of victims.",
        "Teachers asked for guidance on how to talk with parents about {} and consent.",
        "The court upheld the law that bans advertising of {} to young people.",
        "Great tits and blue tits nest in holes, and each species has its own habitat.",
        "Naked mole rats live long, and researchers look for the genes that protect them from cancer.",
        "Therapy for addiction to {} helps most patients within a year, the clinic reports.",
        "The professor of history describes how {} was treated in the press of the time.",
        "Hardcore punk began in small clubs, and its artists printed their own records.",
        "The anal canal is examined before surgery, since symptoms of the disease are often hidden.",
    ),
    "zh": (
        "警方打击{}犯罪，抓获嫌疑人二十名。",
        "医院的研究显示，患者应当尽早接受治疗。",
        "法院判处{}网站的经营者有期徒刑三年。",
        "专家提醒家长，预防学生接触{}信息。",
        "博物馆展出的裸体绘画是十九世纪的艺术。",
        "监管部门公布了关于{}的新法律。",
        "大学教授讲述{}在历史上的影响。",
        "患者在手术以后恢复健康。",
    ),
}
_PLAIN = {
    "en": (
        "The train leaves at noon and arrives before the evening.",
        "She bought bread, cheese and a bottle of water.",
        "The function returns a list of numbers in order.",
        "Rain is expected in the north on Thursday.",
        "Our new chairs are made of oak and come in three sizes.",
        "He wrote to his sister about the journey.",
        "Stir the sauce until it thickens, then add the beans.",
        "The team won the second match by two goals.",
        "Please read the manual before you open the case.",
        "Most of the bridge was rebuilt after the flood.",
    ),
    "zh": (
        "火车中午出发，傍晚到达。",
        "她买了面包和一瓶水。",
        "这个函数返回一个列表。",
        "周四北方有雨。",
        "新椅子用橡木做成。",
        "他给妹妹写了一封信。",
        "把酱汁煮稠，再放豆子。",
        "球队第二场赢了两个球。",
    ),
}
# The same words by chance, in texts about something else.
_STRAY = {
    "en": (
        "The board has two free slots beside the processor.",
        "The star can be seen with the naked eye.",
        "Note XXX: check the case of empty input here.",
        "Every slot has a number, and slots can be booked online.",
        "He has been a hardcore fan of the local team for years.",
        "We hit the jackpot with this recipe for bread.",
    ),
    "zh": (
        "他的投资像赌博，风险很大。",
        "电影里有一场在赌场的戏。",
        "有人在店里偷拍，被保安发现。",
        "小说的主人公因为赌博失去了房子。",
    ),
}


def safety_samples(num_texts: int, held_out: bool, seed: int = 0) -> list[LabelledText]:
    """Documents of 8 to 80 sentences: a third unsafe, a third safe with the same words, a third plain; every other
    plain one has a few of the words by chance."""
    rng = random.Random(f"{seed} {held_out}")
    return [_sample(rng, int(held_out), ("unsafe", "safe", "plain")[number % 3]) for number in range(num_texts)]


def _sample(rng: random.Random, half: int, label: str) -> LabelledText:
    language = rng.choice(("en", "en", "zh"))
    words, plain = _UNSAFE_WORDS[language][half::2], _PLAIN[language]
    templates = {"unsafe": _UNSAFE, "safe": _SAFE, "plain": rng.choice((_PLAIN, _STRAY))}[label][language][half::2]
    share = rng.uniform(0.01, 0.08) if label == "plain" else rng.uniform(0.1, 0.9)
    sentences = []
    for _ in range(rng.randint(20, 80) if label == "plain" else rng.randint(8, 40)):
        sentence = rng.choice(templates if rng.random() < share else plain)
        sentences.append(sentence.format(*rng.choices(words, k=sentence.count("{}"))))
    return LabelledText((" " if language == "en" else "").join(sentences), label == "unsafe")
