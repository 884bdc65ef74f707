"""A hostile web page: what it sends to another origin by every way that a browser has, and what it learns."""

from typing import Any

# Runs in the page of another origin. Every way to send; what could be read of the answer, or why not.
ATTACK = """
async ({url, body, socket}) => {
  const tried = {};
  const attempt = async (name, options) => {
    try {
      const answer = await fetch(url, options);
      tried[name] = answer.type === "opaque" ? "opaque" : "read " + answer.status;
    } catch { tried[name] = "blocked"; }
  };
  const untyped = new Blob([body]);
  await attempt("get", {});
  await attempt("json", {method: "POST", body, headers: {"Content-Type": "application/json"}});
  await attempt("text", {method: "POST", body, headers: {"Content-Type": "text/plain"}});
  await attempt("untyped", {method: "POST", body: untyped});
  await attempt("no-cors text", {method: "POST", mode: "no-cors", body});
  await attempt("no-cors untyped", {method: "POST", mode: "no-cors", body: untyped});
  await attempt("patch", {method: "PATCH", body, headers: {"Content-Type": "application/json"}});
  await attempt("delete", {method: "DELETE"});
  tried["beacon"] = String(navigator.sendBeacon(url, untyped));
  if (socket) tried["websocket"] = await new Promise((resolve) => {
    const made = new WebSocket(socket, "prefect");
    made.onopen = () => resolve("open");
    made.onerror = () => resolve("blocked");
  });
  const frame = document.createElement("iframe");
  frame.name = "frame";
  document.body.append(frame);
  const form = document.createElement("form");
  Object.assign(form, {method: "POST", action: url, enctype: "text/plain", target: "frame"});
  const field = document.createElement("input");
  Object.assign(field, {name: body.slice(0, -1) + ', "x": "', value: '"}'});
  form.append(field);
  document.body.append(form);
  const sent = new Promise((resolve) => { frame.onload = resolve; setTimeout(resolve, 500); });
  form.submit();
  await sent;
  return tried;
}
"""


def attacked(page: Any, url: str, body: str, websocket: str | None = None) -> dict[str, str]:
    """Attack `url` from the page that is open; way → what came of it."""
    return page.evaluate(ATTACK, {"url": url, "body": body, "socket": websocket})


def is_harmless(tried: dict[str, str]) -> bool:
    """Whether the page could read nothing and open nothing. An opaque answer may still have been obeyed."""
    return not any(outcome.startswith("read") or outcome == "open" for outcome in tried.values())
