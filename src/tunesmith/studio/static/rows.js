// Tokens of a row are asked for when somebody opens them: the server has escaped them, and no script in them would run.
for (const details of document.querySelectorAll("[data-tokens]")) {
  details.addEventListener("toggle", async () => {
    const inside = details.querySelector("div");
    const answer = await fetch(details.dataset.tokens).catch(() => null);
    if (answer?.ok) inside.innerHTML = await answer.text();
    else inside.textContent = (await answer?.json().catch(() => null))?.error ?? "…";
  }, { once: true });
}
