// Puts the token into the cookie that this gateway alone reads; this page does not keep it.
"use strict";

const told = document.getElementById("told");
document.getElementById("login").addEventListener("submit", async (event) => {
  event.preventDefault();
  const field = document.getElementById("token");
  const body = JSON.stringify({ token: field.value });
  field.value = "";
  try {
    const answer = await fetch("/v1/login", { method: "POST", headers: { "Content-Type": "application/json" }, body });
    if (answer.ok) {
      location.replace("/");
      return;
    }
    const problem = await answer.json();
    told.textContent = problem.detail;
  } catch (error) {
    told.textContent = `no answer: ${error.message}`;
  }
});
