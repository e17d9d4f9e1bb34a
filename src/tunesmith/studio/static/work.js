// What goes on elsewhere: asked for every second, and the page is loaded anew when it is over. And copying.
const panel = document.querySelector("[data-state]");

async function follow() {
  let now;
  try { now = await (await fetch(panel.dataset.state)).json(); }
  catch { setTimeout(follow, 3000); return; }  // the studio was stopped for a moment; what works, works on
  if (now.go) { location.href = now.go; return; }
  if (now.over) { location.reload(); return; }
  const said = panel.querySelector(".now"), time = panel.querySelector("time");
  if (said && now.said.length) said.textContent = now.said.join("\n");
  if (time && now.time) time.textContent = now.time;
  setTimeout(follow, 1000);
}
if (panel) setTimeout(follow, 500);

document.addEventListener("click", async event => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
  const before = button.textContent;
  button.textContent = button.dataset.done;
  setTimeout(() => { button.textContent = before; }, 1500);
});
