"use strict"; // What the pages share: the key of this tab, and how a page keeps up with the service; each has EVERY and refresh()
const get = id => document.getElementById(id);
let key = sessionStorage.getItem("key") || "";
let timer = 0;

const headers = () => (key ? {Authorization: `Bearer ${key}`} : {});

function trouble(text) {
  get("trouble").textContent = text;
  get("trouble").className = "problem";
  get("trouble").hidden = !text;
  document.body.classList.toggle("stale", Boolean(text));
}

function describe(error) {
  return error instanceof TypeError ? `The service does not answer. It is asked again every ${EVERY / 1000} seconds.` : error.message;
}

function forget() {
  key = "";
  sessionStorage.removeItem("key");
}

async function read(address) { // the page of an address as it is now
  const response = await fetch(address, {headers: headers(), cache: "no-store"});
  if (!response.ok) throw new Error("The service does not answer as it should.");
  return new DOMParser().parseFromString(await response.text(), "text/html");
}

function unlock(page) { // whether a page shows its content; else it asks for a key
  const locked = page.body.hasAttribute("data-locked");
  get("locked").hidden = !locked;
  get("board").hidden = locked;
  if (locked && key) { forget(); get("refused").textContent = "The key is not one of this service's."; }
  if (!locked && key) sessionStorage.setItem("key", key);
  return !locked;
}

async function keepUp() {
  clearTimeout(timer);
  if (!document.hidden && !(document.body.hasAttribute("data-locked") && !key)) await refresh();
  clearTimeout(timer);
  timer = setTimeout(keepUp, EVERY);
}

async function copy(button) { // the text before a button; without a secure context the clipboard takes a selection alone
  const text = button.previousElementSibling;
  try { await navigator.clipboard.writeText(text.textContent); } catch { getSelection().selectAllChildren(text); document.execCommand("copy"); }
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = "Copy"; }, 2000);
}

document.addEventListener("click", event => { const button = event.target.closest("button.copy"); if (button) copy(button); });
document.addEventListener("click", event => { // a link to an incident opens it
  const target = event.target.closest("a[href^='#']")?.getAttribute("href").slice(1);
  if (target && get(target)?.tagName === "DETAILS") get(target).open = true;
});
get("locked").addEventListener("submit", event => { event.preventDefault(); key = get("key").value.trim(); keepUp(); });
document.addEventListener("visibilitychange", () => { if (!document.hidden) keepUp(); });
