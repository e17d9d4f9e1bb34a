// While a run is at work the list is asked for again: its steps move, and one day it is finished.
const list = () => document.querySelector("table.runs tbody");

async function again() {
  const busy = document.hidden || !list()?.querySelector(".running") || list().contains(document.activeElement);
  const answer = busy ? null : await fetch(location.href, { headers: { accept: "text/html" } }).catch(() => null);
  const now = answer?.ok ? new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("table.runs tbody") : null;
  if (now && now.innerHTML !== list().innerHTML) list().replaceWith(now);
  setTimeout(again, 3000);
}
setTimeout(again, 3000);
