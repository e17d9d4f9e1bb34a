// Both answers come as lines of JSON and are shown as text, never as HTML. Which is which is known after the vote.
const form = document.getElementById("ask");
const find = id => document.getElementById(id);
let asking = null, round = "";

function say(text, wrong = false) { find("status").textContent = text; find("status").classList.toggle("error", wrong); }
const side = name => document.querySelector(`[data-side=${name}]`);

function begin() {
  for (const name of ["left", "right"]) {
    side(name).querySelector("h2").textContent = form.dataset[name];
    side(name).querySelector(".answer").textContent = "";
    side(name).classList.remove("chosen");
  }
  find("answers").hidden = false; find("vote").hidden = true; find("stop").hidden = false; find("go").disabled = true;
}

function take(line) {
  const said = JSON.parse(line);
  if (said.error) say(said.error, true);
  else if ("loading" in said) say(form.dataset[said.loading ? "loading" : "answering"]);
  else if (said.side) { side(said.side).querySelector(".answer").append(said.text); say(form.dataset.answering); }
  else if (said.done) { round = said.done; find("vote").hidden = false; say(""); }
}

async function ask(question) {
  if (asking) return;
  begin();
  asking = new AbortController();
  try {
    const answer = await fetch(form.dataset.ask, { method: "POST", body: JSON.stringify({ question }), signal: asking.signal });
    if (!answer.ok) { say((await answer.json()).error, true); return; }
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (let read = await reader.read(); !read.done; read = await reader.read()) {
      const lines = (rest + read.value).split("\n");
      rest = lines.pop();
      lines.forEach(take);
    }
  } catch (error) {
    say(form.dataset[error.name === "AbortError" ? "ended" : "failed"], error.name !== "AbortError");
  } finally {
    asking = null; find("stop").hidden = true; find("go").disabled = false;
  }
}

async function vote(chosen) {
  find("vote").hidden = true;
  const answer = await fetch(form.dataset.vote, { method: "POST", body: JSON.stringify({ id: round, side: chosen }) }).catch(() => null);
  if (!answer) { say(form.dataset.failed, true); find("vote").hidden = false; return; }
  const said = await answer.json();
  if (!answer.ok) { say(said.error, true); return; }
  for (const name of ["left", "right"]) side(name).querySelector("h2").textContent = said[name];
  side(chosen)?.classList.add("chosen");
  find("tally").replaceChildren(...said.tally.map(line => Object.assign(document.createElement("p"), { textContent: line })));
  find("question").focus();
}

if (form) {
  form.addEventListener("submit", event => { event.preventDefault(); ask(find("question").value); });
  find("question").addEventListener("keydown", event => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); form.requestSubmit(); }
  });
  find("stop").addEventListener("click", () => asking?.abort());
  find("vote").addEventListener("click", event => { if (event.target.value) vote(event.target.value); });
  document.querySelector(".proposed")?.addEventListener("click", event => {
    if (event.target.value) { find("question").value = event.target.value; find("question").focus(); }
  });
}
