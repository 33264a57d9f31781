// A chat in the browser: fetch, and a stream of events read as it comes.

/** The data of each event of a stream, as it comes. A chunk may end anywhere, in a letter too. */
export async function* eventsOf(stream) {
  const decoder = new TextDecoder();
  const reader = stream.getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    rest += decoder.decode(value, { stream: true });
    const lines = rest.split(/\r?\n/);
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data:")) yield line.slice(5).trim(); // others are empty, or comments
    }
  }
}

/**
 * One turn of a chat; `onText` is given each piece of the answer.
 * Throws an Error with a sentence for people where there is no whole answer.
 */
export async function chat({ router, key, model, messages, signal, onText }) {
  const headers = { "content-type": "application/json" };
  if (key) headers.authorization = `Bearer ${key}`;
  const body = JSON.stringify({ model, messages, stream: true });
  const answer = await fetch(`${router}/v1/chat/completions`, { method: "POST", headers, body, signal });
  if (!answer.ok) {
    const told = await answer.json().catch(() => null);
    throw new Error(told?.error?.message ?? `The router answered ${answer.status}.`);
  }
  for await (const data of eventsOf(answer.body)) {
    if (data === "[DONE]") return;
    const event = JSON.parse(data);
    if (event.error) throw new Error(event.error.message);
    for (const choice of event.choices) if (choice.delta.content) onText(choice.delta.content);
  }
  throw new Error("The answer ended before it was whole.");
}

/** The ids of the models that can answer now. */
export async function models(router) {
  const answer = await fetch(`${router}/models`);
  if (!answer.ok) throw new Error(`The router answered ${answer.status}.`);
  return (await answer.json()).filter((model) => model.available).map((model) => model.id);
}

function start() {
  const at = (id) => document.getElementById(id);
  const messages = [];
  let leaving = null;

  const router = () => at("router").value.replace(/\/+$/, "");
  const tell = (error) => {
    // A browser does not say why a call failed that another origin forbids.
    const away = error instanceof TypeError;
    at("told").textContent = away ? `${router()} cannot be reached, or does not allow ${origin}.` : error.message;
  };
  const line = (role, text) => {
    const item = document.createElement("li");
    item.className = role;
    item.textContent = text; // never HTML: it is a model's text
    return at("talk").appendChild(item);
  };

  async function load() {
    at("told").textContent = "";
    at("model").replaceChildren(...(await models(router())).map((id) => new Option(id)));
  }

  async function send() {
    at("told").textContent = "";
    const text = at("text").value;
    messages.push({ role: "user", content: text });
    line("user", text);
    const shown = line("assistant", "");
    at("text").value = "";
    at("send").disabled = true;
    at("stop").disabled = false;
    leaving = new AbortController();
    const onText = (piece) => { shown.textContent += piece; };
    try {
      const [key, model] = [at("key").value, at("model").value];
      await chat({ router: router(), key, model, messages, signal: leaving.signal, onText });
    } catch (error) {
      if (error.name !== "AbortError") tell(error);
    } finally {
      if (shown.textContent) messages.push({ role: "assistant", content: shown.textContent });
      else messages.pop(); // a question without an answer is no part of the conversation
      at("send").disabled = false;
      at("stop").disabled = true;
    }
  }

  at("router").addEventListener("change", () => load().catch(tell));
  at("stop").addEventListener("click", () => leaving?.abort()); // the router frees the engine at once
  at("form").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  const wanted = new URLSearchParams(location.search).get("router");
  if (wanted) at("router").value = wanted;
  load().catch(tell);
}

if (typeof document !== "undefined") start();
