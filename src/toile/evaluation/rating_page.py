"""The page on which people choose between two pictures, blind: one file that fetches nothing and sends nothing.

It holds pictures, words and the session's id; who made which picture is in the key, a file of its own. Answers stay in
the browser until the person downloads them.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from PIL import Image

from toile.data.images import pad_to
from toile.errors import ToileError

ANSWERS_FORMAT = "toile-answers/1"
CHOICES = ("left", "same", "right")
LONGEST_SIDE = 480
_JPEG_QUALITY = 95
_LONGEST_PROMPT = 500


@dataclass(frozen=True)
class Shown:
    """Two pictures side by side, by their numbers among the page's pictures, and the words they were made for."""

    left: int
    right: int
    prompt: str


def shown_size(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """(width, height) at which all pictures are shown: the shape of the first, its longer side `LONGEST_SIDE`.

    One size for all, so that a maker cannot be known by it.
    """
    width, height = sizes[0]
    scale = LONGEST_SIDE / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def encode_picture(pixels: np.ndarray, size: tuple[int, int]) -> bytes:
    """A JPEG of `size` of the pixels (H, W, 3) uint8, enlarged or shrunk smoothly (Lanczos), on white where bare."""
    file = io.BytesIO()
    pad_to(Image.fromarray(pixels), *size, enlarge=True).save(file, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    return file.getvalue()


def render_page(
    session: str, shown: Sequence[Shown], pictures: Sequence[bytes], questions: Mapping[str, str], size: tuple[int, int]
) -> str:
    """The page as HTML text; equal arguments give equal bytes.

    Args:
        session: the id that answers carry.
        shown: in the order they are shown.
        pictures: JPEG files.
        questions: by the names that answers have, in the order they are asked; the words are shown from the second on.
        size: (width, height) of all pictures.

    Raises:
        ToileError: a picture that is shown is not there.
    """
    wrong = [number for pair in shown for number in (pair.left, pair.right) if not 0 <= number < len(pictures)]
    if wrong:
        raise ToileError(f"the page shows picture {wrong[0]}, but has {len(pictures)}")
    encoded = ["data:image/jpeg;base64," + base64.b64encode(picture).decode("ascii") for picture in pictures]
    data = {
        "format": ANSWERS_FORMAT,
        "session": session,
        "questions": [{"name": name, "text": text} for name, text in questions.items()],
        "shown": [{**asdict(pair), "prompt": _plain(pair.prompt)} for pair in shown],
        "pictures": encoded,
    }
    policy = f"default-src 'none'; img-src data:; style-src {_hash(_STYLE)}; script-src {_hash(_SCRIPT)}"
    width, height = size
    is_twice = len({frozenset((pair.left, pair.right)) for pair in shown}) < len(shown)
    body = _BODY.replace("{twice}", _TWICE if is_twice else "")
    body = body.replace("{width}", str(width)).replace("{height}", str(height)).replace("{pairs}", str(len(shown)))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{html.escape(policy)}">\n'
        f'<meta name="referrer" content="no-referrer"><title>Which picture?</title>\n<style>{_STYLE}</style></head>'
        f'{body}<script type="application/json" id="data">{_json_in_html(data)}</script>\n'
        f"<script>{_SCRIPT}</script></body></html>\n"
    )


def _hash(inline: str) -> str:
    """How a policy allows one inline text and no other."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode('ascii')}'"


def _plain(prompt: str) -> str:
    """A prompt of one line without signs that cannot be shown, not endless."""
    shown = prompt if len(prompt) <= _LONGEST_PROMPT else prompt[: _LONGEST_PROMPT - 3] + "..."
    return "".join(sign if sign.isprintable() else " " for sign in shown)


def _json_in_html(data: object) -> str:
    """JSON that no HTML parser can take for markup, and that ends no script."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


_STYLE = """
:root { color-scheme: light dark; --back: #f4f4f2; --text: #1d1d1f; --soft: #5f5f66; --line: #c9c9cf; --key: #fff;
  --mark: #1f5fbf; }
@media (prefers-color-scheme: dark) { :root { --back: #1b1b1e; --text: #ececf0; --soft: #a4a4ad; --line: #4a4a52;
  --key: #2a2a2f; --mark: #7fb2ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: .8rem; max-width: 60rem; font: 16px/1.45 system-ui, sans-serif; background: var(--back);
  color: var(--text); }
h1 { font-size: 1.35rem; margin: .6rem 0; } p { margin: .5rem 0; } [hidden] { display: none !important; }
#top { display: flex; gap: .8rem; align-items: center; color: var(--soft); font-size: .85rem; }
#top progress { flex: 1; height: .5rem; accent-color: var(--mark); }
#question { font-size: 1.15rem; font-weight: 600; text-align: center; margin: .6rem 0 .1rem; }
#words { text-align: center; min-height: 1.5em; margin: 0 0 .5rem; overflow-wrap: anywhere; color: var(--mark);
  font-weight: 600; }
#pair { display: grid; grid-template-columns: 1fr 1fr; gap: .8rem; }
#pair button { padding: .3rem; } #pair img { display: block; width: 100%; height: auto; max-height: 68vh;
  object-fit: contain; background: #fff; border-radius: 4px; }
button { font: inherit; color: var(--text); background: var(--key); border: 1px solid var(--line); border-radius: 8px;
  padding: .55rem .9rem; cursor: pointer; } button:hover { border-color: var(--mark); }
button:focus-visible, input:focus-visible { outline: 3px solid var(--mark); outline-offset: 2px; }
button:disabled { opacity: .45; cursor: default; }
#more { display: flex; flex-wrap: wrap; gap: .6rem; justify-content: center; margin: .8rem 0; }
kbd { font: .8em ui-monospace, monospace; border: 1px solid var(--line); border-radius: 4px; padding: 0 .35em;
  color: var(--soft); } .keys { font-size: .85rem; color: var(--soft); text-align: center; }
input { font: inherit; padding: .5rem; border: 1px solid var(--line); border-radius: 8px; background: var(--key);
  color: var(--text); width: 100%; max-width: 20rem; display: block; margin: .2rem 0 .8rem; }
textarea { width: 100%; height: 8rem; }
.main { background: var(--mark); color: var(--back); border-color: var(--mark); }
#note { color: var(--soft); font-size: .85rem; } li { margin: .25rem 0; }
"""

_TWICE = """<li>Some pairs come twice. Do not try to remember: answer as if you saw them for the first time.</li>"""
_BODY = """<body>
<noscript><p>This page needs JavaScript, of which all is in the page itself: it loads and sends nothing.</p></noscript>
<main id="start" hidden><h1>Which picture?</h1>
<p>You see {pairs} pairs of pictures, one pair after the other, and answer two questions about each.</p>
<ul><li>First: <strong>which looks more like a photograph of a real product?</strong> You are not told yet what the
pictures should show.</li>
<li>Then the words appear that both pictures were made for: <strong>which fits the words better?</strong></li>
<li>Say <strong>same</strong> only if you really see no difference. Go by your first impression; there is no right
answer.</li>{twice}</ul>
<p>Tap or click a picture, or use the keys: <kbd>&larr;</kbd> left, <kbd>&rarr;</kbd> right, <kbd>S</kbd> or
<kbd>&darr;</kbd> same, <kbd>U</kbd> or <kbd>Backspace</kbd> take the last answer back. You can close the page and go on
later in the same browser.</p>
<p id="note"></p><p><button class="main" id="go">Begin</button></p></main>
<main id="ask" hidden><div id="top"><span id="count"></span><progress id="bar" max="1" value="0"></progress></div>
<div aria-live="polite"><p id="question"></p><p id="words"></p></div>
<div id="pair"><button id="left"><img id="left-picture" alt="left picture" width="{width}" height="{height}"></button>
<button id="right"><img id="right-picture" alt="right picture" width="{width}" height="{height}"></button></div>
<div id="more"><button id="same">Same</button><button id="undo">Undo</button><button id="stop">Stop here</button></div>
<p class="keys"><kbd>&larr;</kbd> left &nbsp; <kbd>&rarr;</kbd> right &nbsp; <kbd>S</kbd> same &nbsp; <kbd>U</kbd>
undo</p></main>
<main id="end" hidden><h1 id="thanks"></h1><label for="rater">Your name or initials</label>
<input id="rater" maxlength="60" autocomplete="off">
<p><button class="main" id="save">Download answers</button> <button id="back">Back to the pairs</button></p>
<p id="told" role="status"></p>
<details><summary>Nothing was downloaded?</summary><p>Copy this text into a file named answers.json.</p>
<textarea id="text" readonly aria-label="answers"></textarea></details></main>
"""

# Answers are one list of choices, question after question, so taking one back is taking the last one off.
_SCRIPT = """
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const store = "toile-rating-" + data.session, per = data.questions.length, total = data.shown.length * per;
  const allowed = ["left", "same", "right"];
  let choices = [], rater = "", kept = true, asking = false;

  const restore = () => {
    try {
      const saved = JSON.parse(localStorage.getItem(store) || "{}");
      if (Array.isArray(saved.choices) && saved.choices.every((one) => allowed.includes(one)))
        choices = saved.choices.slice(0, total);
      if (typeof saved.rater === "string") rater = saved.rater.slice(0, 60);
    } catch (error) { kept = false; }
  };
  const keep = () => {
    try { localStorage.setItem(store, JSON.stringify({ choices, rater })); } catch (error) { kept = false; }
  };
  const screen = (name) => {
    asking = name === "ask";
    for (const each of ["start", "ask", "end"]) at(each).hidden = each !== name;
  };
  const ask = () => {
    if (choices.length >= total) return finish();
    const pair = data.shown[Math.floor(choices.length / per)], question = choices.length % per;
    at("count").textContent = `Pair ${Math.floor(choices.length / per) + 1} of ${data.shown.length}`;
    at("bar").value = choices.length / total;
    at("question").textContent = data.questions[question].text;
    at("words").textContent = question === 0 ? "" : pair.prompt || "(no words)";
    at("left-picture").src = data.pictures[pair.left];
    at("right-picture").src = data.pictures[pair.right];
    at("undo").disabled = choices.length === 0;
    at("stop").disabled = choices.length < per;
    screen("ask");
  };
  const choose = (choice) => { choices.push(choice); keep(); ask(); };
  const undo = () => { if (choices.length) { choices.pop(); keep(); ask(); } };
  const answers = () => {
    const list = [];
    for (let trial = 0; (trial + 1) * per <= choices.length; trial++) {
      const answer = { trial };
      data.questions.forEach((question, number) => { answer[question.name] = choices[trial * per + number]; });
      list.push(answer);
    }
    return JSON.stringify({ format: data.format, session: data.session, rater: rater.trim(), answers: list }, null, 1);
  };
  const finish = () => {
    const done = Math.floor(choices.length / per);
    at("thanks").textContent = choices.length >= total ? "Thank you, that was all."
      : `You answered ${done} of ${data.shown.length} pairs.`;
    at("rater").value = rater;
    at("text").value = answers();
    at("told").textContent = "";
    screen("end");
  };
  const save = () => {
    rater = at("rater").value;
    keep();
    at("text").value = answers();
    if (!rater.trim()) {
      at("told").textContent = "Please write a name or initials first: answers of several people must be told apart.";
      at("rater").focus();
      return;
    }
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([answers()], { type: "application/json" }));
    const name = rater.replace(/[^A-Za-z0-9]+/g, "-").replace(/^-|-$/g, "").slice(0, 40);
    link.download = `answers-${name || "rater"}.json`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    at("told").textContent = `Saved as ${link.download}. Send this file to whoever asked you.`;
  };

  at("go").addEventListener("click", ask);
  for (const side of ["left", "right", "same"]) at(side).addEventListener("click", () => choose(side));
  at("undo").addEventListener("click", undo);
  at("stop").addEventListener("click", finish);
  at("back").addEventListener("click", () => (choices.length >= total ? undo() : ask()));
  at("save").addEventListener("click", save);
  at("rater").addEventListener("input", () => { rater = at("rater").value; keep(); at("text").value = answers(); });
  document.addEventListener("keydown", (event) => {
    if (!asking || event.repeat || event.ctrlKey || event.altKey || event.metaKey) return;
    const keys = { ArrowLeft: "left", ArrowRight: "right", ArrowDown: "same", s: "same", S: "same" };
    if (Object.hasOwn(keys, event.key)) choose(keys[event.key]);
    else if (["u", "U", "Backspace"].includes(event.key)) undo();
    else return;
    event.preventDefault();
  });
  restore();
  keep();
  at("note").textContent = !kept ? "This browser keeps nothing for this page: answer in one go, without closing it."
    : choices.length ? `You have answered ${Math.floor(choices.length / per)} pairs already and go on from there.` : "";
  at("go").textContent = choices.length ? "Go on" : "Begin";
  screen("start");
})();
"""
