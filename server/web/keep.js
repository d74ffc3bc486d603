// What the service keeps for this tab: analyses, by their ids, so that they can be deleted with the clip.

import { ServiceError, ask } from "./api.js";

const STORED = "emollama.stored";
const made = new Map();  // id of the answer on the page -> id of the analysis that the service keeps

const stored = () => JSON.parse(sessionStorage.getItem(STORED) ?? "[]");
export const keep = (id) => sessionStorage.setItem(STORED, JSON.stringify([...stored(), id]));

/** The analysis that the service keeps of an answer, or undefined; `belongs` says which it is, or that there is none any more. */
export const keptOf = (answer) => made.get(answer);
export function belongs(answer, id) {
  if (id === null) made.delete(answer);
  else made.set(answer, id);
}

/** Delete them all; one whose time was over is gone already. */
export async function deleteKept() {
  for (const id of stored()) {
    await ask(`v1/analyses/${id}`, { method: "DELETE" }).catch((error) => {
      if (!(error instanceof ServiceError) || error.code !== "analysis_not_found") throw error;
    });
  }
  sessionStorage.removeItem(STORED);
  made.clear();
}
