// Requests to the daemon. An error of it is an ApiError with a sentence for people.

let csrf = "";

export class ApiError extends Error {
  constructor(status, text, problem) {
    super(text);
    this.status = status;
    this.faults = (problem && problem.faults) || [];
  }
}

export function useSession(session) {
  csrf = session.csrf;
}

export async function request(method, path, body) {
  const headers = {};
  if (method !== "GET") headers["X-Ftpsd-Csrf"] = csrf;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch {
    throw new ApiError(0, "The daemon cannot be reached.");
  }
  const answer = await response.json().catch(() => null);
  if (!response.ok) {
    throw new ApiError(response.status, (answer && answer.detail) || `The daemon answers ${response.status}.`, answer);
  }
  return answer;
}

export const get = (path) => request("GET", path);

export function query(parameters) {
  const given = Object.entries(parameters).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  return given.length ? `?${new URLSearchParams(given)}` : "";
}
