"use strict";
// Runs before the page is painted, so that a chosen theme doesn't flash the other one first.
(() => {
  const page = document.documentElement;
  page.classList.add("js");
  try {
    const chosen = localStorage.getItem("kardiabench-theme");
    if (chosen === "light" || chosen === "dark") page.dataset.theme = chosen;
  } catch {
    page.dataset.theme = ""; // storage is closed to this page: the system's theme it is
  }
})();
