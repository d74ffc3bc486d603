// What the service says of itself before anybody is asked for a key: its limits, and what it wants.

let told = {};

/** {wants_key, max_seconds, max_mebibytes, long_max_seconds, long_max_mebibytes, kept_seconds, loads_adapters}. */
export const service = () => told;

export async function loadService() {
  told = await (await fetch(new URL("service.json", import.meta.url))).json();
}
