// Log in, load everything once, and then follow the stream of the daemon.

import { get, request, useSession } from "./api.js";
import { Bans } from "./bans.js";
import { Charts } from "./charts.js";
import { find, setText } from "./dom.js";
import { Events } from "./events.js";
import { Health } from "./health.js";
import { Sessions } from "./sessions.js";
import { State } from "./state.js";
import { Users } from "./users.js";

const NOT_STORED = "The state file cannot be read or written now: if the daemon restarts before it can be, repeat this.";
const SLOW = 10000; // milliseconds between two looks at bans and users, which no stream has

let parts = null;
let stream = null;

// --- login -------------------------------------------------------------------------------------------

function showLogin(text) {
  if (stream !== null) stream.close();
  stream = null;
  find("content").hidden = find("logout").hidden = true;
  find("login").hidden = false;
  setText(find("login-error"), text);
  setText(find("connection"), "");
  setText(find("administrator"), "");
  find("code").focus();
}

async function logIn(code) {
  try {
    open(await request("POST", "/login", { code }));
  } catch (error) {
    showLogin(error.message);
  }
}

async function begin() {
  const code = new URLSearchParams(location.hash.slice(1)).get("login");
  if (code !== null) {
    history.replaceState(null, "", location.pathname); // the code is used up: a bookmark needs none
    await logIn(code);
    return;
  }
  try {
    open(await get("/session"));
  } catch (error) {
    showLogin(error.status === 401 ? "" : error.message);
  }
}

find("login").addEventListener("submit", (event) => {
  event.preventDefault();
  const given = find("code").value.trim();
  logIn(given.slice(given.lastIndexOf("=") + 1)); // the whole link will do
});

find("logout").addEventListener("click", async () => {
  await request("POST", "/logout").catch(() => null);
  showLogin("");
});

// --- content -----------------------------------------------------------------------------------------

async function report(action, done) {
  const place = find("message");
  place.classList.remove("error");
  try {
    const answer = await action();
    setText(place, answer && answer.stored === false ? `${done} ${NOT_STORED}` : done);
  } catch (error) {
    if (error.status === 401) showLogin(error.message);
    place.classList.add("error");
    setText(place, [error.message, ...error.faults].join(" "));
  }
}

function open(session) {
  useSession(session);
  setText(find("administrator"), session.administrator);
  find("login").hidden = true;
  find("content").hidden = find("logout").hidden = false;
  find("code").value = "";
  if (parts === null) {
    parts = {
      state: new State(),
      charts: new Charts(),
      sessions: new Sessions(report),
      bans: new Bans(report),
      users: new Users(),
      health: new Health(),
      events: new Events(),
    };
    find("filter").addEventListener("input", () => follow());
    find("filter").addEventListener("submit", (event) => event.preventDefault());
    setInterval(refresh, SLOW);
  }
  follow();
  refresh();
}

async function refresh() {
  if (stream === null || document.hidden) return;
  try {
    await Promise.all([parts.bans.load(), parts.users.load(), parts.health.load()]);
  } catch (error) {
    if (error.status === 401) showLogin(error.message);
  }
}

// --- live --------------------------------------------------------------------------------------------

function follow() {
  if (stream !== null) stream.close();
  const mine = new EventSource(`/live${parts.sessions.query()}`);
  stream = mine;
  const on = (name, handle) =>
    mine.addEventListener(name, (event) => {
      if (stream === mine) handle(JSON.parse(event.data));
    });
  mine.onopen = async () => {
    setText(find("connection"), "live");
    find("connection").classList.remove("bad");
    await Promise.all([parts.charts.load(), parts.events.load()]).catch(() => null);
  };
  mine.onerror = () => lost(mine);
  on("status", (status) => {
    parts.state.show(status);
    parts.charts.add(status);
  });
  on("sessions", (list) => parts.sessions.show(list));
  on("events", (events) => parts.events.add(events));
}

// A browser opens a stream again by itself, but not after an answer with an error: a wrong filter, or no login.
async function lost(mine) {
  if (stream !== mine) return;
  setText(find("connection"), "not connected");
  find("connection").classList.add("bad");
  if (mine.readyState !== EventSource.CLOSED) return;
  try {
    await get(`/v1/sessions${parts.sessions.query()}`);
    setText(find("message"), "");
  } catch (error) {
    if (error.status === 401) {
      showLogin(error.message);
      return;
    }
    find("message").classList.add("error");
    setText(find("message"), error.message);
    if (error.status === 400) return; // until the filter is changed
  }
  setTimeout(() => stream === mine && follow(), 2000);
}

begin();
