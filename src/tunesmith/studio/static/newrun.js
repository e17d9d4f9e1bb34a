// Files are sent one after the other, each as the body of a PUT, and appear as ticked choices of the form.
const drop = document.getElementById("drop"), input = document.getElementById("files");
const sources = document.getElementById("sources"), sent = document.getElementById("sent");

async function upload(file) {
  sent.textContent = drop.dataset.sending.replace("{name}", file.name);
  try {
    const answer = await fetch("/uploads/" + encodeURIComponent(file.name), { method: "PUT", body: file });
    const said = await answer.json();
    if (!answer.ok) throw new Error(typeof said.error === "string" ? said.error : said.error?.message);
    choose(said.path, said.size);
    return "";
  } catch (error) {
    return error.message || drop.dataset.failed.replace("{name}", file.name);
  }
}

function choose(path, size) {
  const known = [...sources.querySelectorAll("input")].find(box => box.value === path);
  if (known) { known.checked = true; return; }
  const item = document.getElementById("source").content.cloneNode(true);
  item.querySelector("input").value = path;
  item.querySelector("bdi").textContent = path.slice(path.indexOf("/") + 1);
  item.querySelector("small").textContent = size;
  sources.append(item);
}

async function take(files) {
  const button = document.querySelector("button.main"), faults = [];
  button.disabled = true;
  for (const file of files) { const fault = await upload(file); if (fault) faults.push(fault); }
  button.disabled = false;
  sent.textContent = faults.join(" · ");
  sent.classList.toggle("error", faults.length > 0);
}

input.addEventListener("change", async () => { await take([...input.files]); input.value = ""; });
addEventListener("dragover", event => { event.preventDefault(); drop.classList.add("over"); });
addEventListener("dragleave", event => { if (!event.relatedTarget) drop.classList.remove("over"); });
addEventListener("drop", event => { event.preventDefault(); drop.classList.remove("over"); take([...event.dataTransfer.files]); });
document.querySelector("[name=other]").addEventListener("input", () => { document.querySelector("[name=model][value=other]").checked = true; });
