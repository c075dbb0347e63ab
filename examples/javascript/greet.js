// A consumer in JavaScript: `{"name":"Ann"}` in, a greeting to the queue `audit` out.

import { send } from "linecook:worker/queues@0.1.1";

const decoder = new TextDecoder();
const encoder = new TextEncoder();

export const handler = {
  // Returning acknowledges the message. What is thrown is a failure of the contract:
  // { tag: "retry", val: { reason, afterMs } }, { tag: "snooze", val: milliseconds as a bigint } or
  // { tag: "dead-letter", val: reason }. Anything else that is thrown is a failed attempt.
  handle(message) {
    const name = nameIn(message.body);
    console.log(`hello, ${name}`); // reaches the runtime's log, with the message's id
    // Sent with the acknowledgement, or not at all.
    send("audit", {
      body: encoder.encode(JSON.stringify({ greeted: name, input: message.id })),
      contentType: "application/json",
      attributes: [],
      delayMs: 0n,
    });
  },
};

function nameIn(body) {
  let name;
  try {
    name = JSON.parse(decoder.decode(body)).name;
  } catch (error) {
    throw { tag: "dead-letter", val: `the body is not JSON: ${error.message}` };
  }
  if (typeof name !== "string") {
    throw { tag: "dead-letter", val: "the body has no name" };
  }
  return name;
}
