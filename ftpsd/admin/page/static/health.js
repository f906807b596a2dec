// What the checks of the daemon have found: those of `ftpsd doctor` that the daemon can make itself.

import { get } from "./api.js";
import { find, make, setText } from "./dom.js";

export class Health {
  async load() {
    const list = find("findings");
    let findings = [];
    try {
      ({ findings } = await get("/v1/findings"));
      setText(find("findings-none"), findings.length ? "" : "The checks have found nothing wrong. ftpsd doctor checks more.");
    } catch (error) {
      if (error.status === 401) throw error;
      setText(find("findings-none"), error.message);
    }
    const shown = JSON.stringify(findings);
    if (list.dataset.shown === shown) return;
    list.dataset.shown = shown;
    list.replaceChildren(...findings.map(row));
  }
}

function row({ level, problem, cure, code }) {
  const title = make("strong", { textContent: `${level}: ` });
  return make("li", { className: level }, title, `${problem} `, make("span", { className: "more", textContent: `${cure} (${code})` }));
}
