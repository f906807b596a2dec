// Ask before something is done that cannot be undone.

import { find, setText } from "./dom.js";

// Returns { message, now }, or null if the answer is no.
export function confirm(title, text, yes, { asksMessage = false } = {}) {
  const dialog = find("confirm");
  const form = dialog.querySelector("form");
  form.reset();
  setText(find("confirm-title"), title);
  setText(find("confirm-text"), text);
  setText(find("confirm-yes"), yes);
  find("confirm-message").hidden = find("confirm-now").hidden = !asksMessage;
  const before = document.activeElement;
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener(
      "close",
      () => {
        if (before && before.isConnected) before.focus();
        resolve(dialog.returnValue === "yes" ? { message: form.message.value.trim(), now: form.now.checked } : null);
      },
      { once: true },
    );
  });
}
