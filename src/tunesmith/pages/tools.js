const tools = document.getElementById("tools"), items = [...document.querySelectorAll(".item")], texts = [];
tools.hidden = items.length < 2;
const fits = (item, i, word, wanted) => wanted.every(choice => item.dataset[choice.name] === choice.value)
  && (!word || (texts[i] ??= item.textContent.toLowerCase()).includes(word));
tools.addEventListener("input", () => {
  const word = tools.querySelector("input").value.toLowerCase();
  const wanted = [...tools.querySelectorAll("select")].filter(choice => choice.value);
  items.forEach((item, i) => { item.hidden = !fits(item, i, word, wanted); });
  const shown = items.filter(item => !item.hidden).length;
  tools.querySelector("output").value = word || wanted.length ? `${shown} of ${items.length}` : "";
});
const unfold = yes => items.forEach(item => { if ("open" in item) item.open = yes; });
tools.addEventListener("click", event => { if (event.target.value && event.target.type === "button") unfold(event.target.value === "open"); });
addEventListener("beforeprint", () => unfold(true));
