"use strict";
const EVERY = 5000; // Milliseconds between two looks
const get = id => document.getElementById(id);
let key = sessionStorage.getItem("key") || "";

async function refresh() {
  try {
    const answer = await fetch("/", {headers: key ? {Authorization: `Bearer ${key}`} : {}, cache: "no-store"});
    if (!answer.ok) throw new Error("The service does not answer as it should.");
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const locked = page.body.hasAttribute("data-locked");
    get("locked").hidden = !locked;
    get("board").hidden = locked;
    if (locked && key) { key = ""; sessionStorage.removeItem("key"); get("refused").textContent = "The key is not one of this service's."; }
    if (!locked) {
      if (key) sessionStorage.setItem("key", key);
      get("models").replaceChildren(...page.getElementById("models").childNodes);
      get("updated").textContent = page.getElementById("updated").textContent;
    }
    get("trouble").hidden = true;
  } catch (error) {
    get("trouble").textContent = error instanceof TypeError ? "The service does not answer. It is asked again every 5 seconds." : error.message;
    get("trouble").className = "problem";
    get("trouble").hidden = false;
  }
}

let timer = 0;

async function keepUp() {
  clearTimeout(timer);
  if (!document.hidden && !(document.body.hasAttribute("data-locked") && !key)) await refresh();
  clearTimeout(timer);
  timer = setTimeout(keepUp, EVERY);
}

get("locked").addEventListener("submit", event => { event.preventDefault(); key = get("key").value.trim(); keepUp(); });
document.addEventListener("visibilitychange", () => { if (!document.hidden) keepUp(); });
keepUp();
