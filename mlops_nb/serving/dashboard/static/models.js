"use strict";
const EVERY = 5000; // Milliseconds between two looks

async function refresh() {
  try {
    const page = await read("./");
    if (unlock(page)) {
      get("models").replaceChildren(...page.getElementById("models").childNodes);
      get("updated").textContent = page.getElementById("updated").textContent;
    }
    trouble("");
  } catch (error) {
    trouble(describe(error));
  }
}

keepUp();
