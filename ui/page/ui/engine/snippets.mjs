/** The same request as a program: curl, Python, C++ and C. */

import { leafOf } from "./archive.mjs";
import { DTYPES } from "./tensors.mjs";

const INLINE = 2048; // elements up to which values stand in the program
const WITHOUT_JSON = ["float16", "bfloat16"];
const NUMPY = { bfloat16: "float32" }; // what tritonclient takes for it
const C_TYPES = {
  bool: "uint8_t",
  float16: "uint16_t",
  bfloat16: "uint16_t",
  float32: "float",
  float64: "double",
};

/** The file that holds the inputs, where a program reads them from one. */
export const INPUTS_FILE = "inputs.safetensors";
export const REQUEST_FILE = "request.json";

/**
 * Writes the request for programs: [{ language, text, files }]. `request` is { name, version, archive,
 * method, inputs, home, keys }: `home` is the server's address and ends with a slash, `keys` says whether it
 * wants an API key. On a site, which has no server, `home` is null. `files` names what a program reads.
 */
export function snippets(request) {
  const clients = request.home ? [curl(request), python(request)] : [];
  return [...clients, cpp(request), c(request)];
}

/** The body of the request as JSON; throws where JSON cannot carry an input. */
export function jsonRequest({ method, inputs }) {
  const tensors = Object.entries(inputs).map(([name, tensor]) => {
    if (WITHOUT_JSON.includes(tensor.dtype))
      throw new Error(
        `input '${name}': ${tensor.dtype} has no JSON form; use a client that sends binary data`,
      );
    const text = leafOf(method.inputs, name)?.kind === "str";
    const data = text ? [JSON.stringify(tensor.asText())] : tensor.values().map(jsonValue);
    const [datatype, shape] = text ? ["BYTES", [1]] : [DTYPES[tensor.dtype].wire, tensor.shape];
    return `{"name": ${JSON.stringify(name)}, "datatype": "${datatype}", "shape": [${shape.join(", ")}], "data": [${data.join(", ")}]}`;
  });
  const parameters =
    method.name === "forward" ? "" : `, "parameters": {"method": ${JSON.stringify(method.name)}}`;
  return `{"inputs": [${tensors.join(", ")}]${parameters}}`;
}

function curl(request) {
  const { method, inputs, keys } = request;
  const key = keys ? `-H "X-API-Key: $KEY" ` : "";
  const address = shell(`${request.home}${inferPath(request)}`);
  try {
    const large = Object.values(inputs).some((tensor) => tensor.count > INLINE);
    const body = large ? `@${REQUEST_FILE}` : shell(jsonRequest({ method, inputs }));
    return {
      language: "curl",
      text: `curl -s ${key}${address} \\\n  -d ${body}\n`,
      files: large ? [REQUEST_FILE] : [],
    };
  } catch (error) {
    return { language: "curl", text: `# ${error.message}\n`, files: [] };
  }
}

function python({ name, version, method, inputs, home, keys }) {
  const address = new URL(home);
  const secure = address.protocol === "https:";
  const below = address.pathname.replace(/\/$/, "");
  const tensors = Object.entries(inputs);
  const large = tensors.some(([, tensor]) => tensor.count > INLINE);
  const lines = [
    ...(keys ? ["import os", ""] : []),
    "import numpy as np",
    "import tritonclient.http as triton",
    ...(large ? ["from safetensors.numpy import load_file"] : []),
    "",
    `client = triton.InferenceServerClient(${JSON.stringify(address.host + below)}${secure ? ", ssl=True" : ""})`,
    ...(large ? [`held = load_file("${INPUTS_FILE}")`] : []),
    "inputs = []",
  ];
  for (const [input, tensor] of tensors) {
    const text = leafOf(method.inputs, input)?.kind === "str";
    const [datatype, shape] = text ? ["BYTES", [1]] : [DTYPES[tensor.dtype].wire, tensor.shape];
    lines.push(
      `inputs.append(triton.InferInput(${JSON.stringify(input)}, [${shape.join(", ")}], "${datatype}"))`,
      `inputs[-1].set_data_from_numpy(${text ? pythonText(tensor) : numpyArray(input, tensor, large)})`,
    );
  }
  const more = [
    `model_version=${JSON.stringify(version)}`,
    ...(method.name === "forward" ? [] : [`parameters={"method": ${JSON.stringify(method.name)}}`]),
    ...(keys ? [`headers={"X-API-Key": os.environ["KEY"]}`] : []),
  ];
  lines.push(
    `result = client.infer(${JSON.stringify(name)}, inputs, ${more.join(", ")})`,
    `for name in ${JSON.stringify(method.outputs.map((leaf) => leaf.name))}:`,
    "    print(name, result.as_numpy(name))",
    "client.close()",
  );
  return { language: "Python", text: `${lines.join("\n")}\n`, files: large ? [INPUTS_FILE] : [] };
}

function numpyArray(name, tensor, large) {
  const dtype = NUMPY[tensor.dtype] ?? (tensor.dtype === "bool" ? "bool_" : tensor.dtype);
  if (large && tensor.dtype !== "bfloat16") return `held[${JSON.stringify(name)}]`;
  return `np.array([${tensor.values().map(pythonValue).join(", ")}], np.${dtype}).reshape(${tensor.shape.length ? tensor.shape.join(", ") : "()"})`;
}

function pythonValue(value) {
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value === "bigint" || Number.isFinite(value))
    return Object.is(value, -0) ? "-0.0" : String(value);
  return Number.isNaN(value) ? "np.nan" : value > 0 ? "np.inf" : "-np.inf";
}

function pythonText(tensor) {
  return `np.array([${JSON.stringify(tensor.asText())}.encode()], object)`;
}

function cpp({ name, method }) {
  const text = [
    "#include <torchship/archive.h>",
    "#include <torchship/session.h>",
    "#include <torchship/tensor_io.h>",
    "",
    "#include <ATen/core/Formatting.h>",
    "",
    "#include <iostream>",
    "",
    "int main() {",
    `  const auto archive = torchship::Archive::open(${JSON.stringify(`${name}.pt`)});`,
    `  torchship::Session session(archive, ${JSON.stringify(method.name)});`,
    `  const auto inputs = torchship::read_tensors("${INPUTS_FILE}", "");`,
    "  for (const auto& [name, tensor] : session.run(inputs))",
    '    std::cout << name << ":\\n" << tensor << "\\n";',
    "}",
    "",
  ];
  return { language: "C++", text: text.join("\n"), files: [INPUTS_FILE] };
}

function c({ name, method, inputs }) {
  const tensors = Object.entries(inputs);
  const arrays = tensors.flatMap(([, tensor], number) => [
    ...(tensor.shape.length
      ? [`static const int64_t shape_${number}[] = {${tensor.shape.join(", ")}};`]
      : []),
    `static const ${C_TYPES[tensor.dtype] ?? `${tensor.dtype}_t`} data_${number}[${Math.max(tensor.count, 1)}] = {${cValues(tensor)}};`,
  ]);
  const entries = tensors.map(([input, tensor], number) => {
    const shape = tensor.shape.length ? `shape_${number}` : "NULL";
    return `    {${JSON.stringify(input)}, TORCHSHIP_${tensor.dtype.toUpperCase()}, ${tensor.shape.length}, ${shape}, NULL, data_${number}},`;
  });
  const text = [
    "#include <torchship/torchship.h>",
    "",
    "#include <math.h>",
    "#include <stdio.h>",
    "",
    ...arrays,
    "",
    "static int failed(torchship_status status) {",
    '  if (status) fprintf(stderr, "%s\\n", torchship_last_message());',
    "  return status;",
    "}",
    "",
    "int main(void) {",
    "  torchship_archive* archive = NULL;",
    "  torchship_session* session = NULL;",
    "  const torchship_tensor inputs[] = {",
    ...entries,
    "  };",
    "  const torchship_tensor* outputs = NULL;",
    "  size_t count = 0;",
    `  if (failed(torchship_archive_open(${JSON.stringify(`${name}.pt`)}, NULL, &archive))) return 1;`,
    `  if (failed(torchship_session_open(archive, ${JSON.stringify(method.name)}, &session))) return 1;`,
    `  if (failed(torchship_session_run(session, inputs, ${tensors.length}, &outputs, &count))) return 1;`,
    '  for (size_t i = 0; i < count; ++i) printf("%s: rank %d\\n", outputs[i].name, (int)outputs[i].rank);',
    "  torchship_session_close(session);",
    "  torchship_archive_close(archive);",
    "  return 0;",
    "}",
    "",
  ];
  return { language: "C", text: text.join("\n"), files: [] };
}

function cValues(tensor) {
  if (tensor.count > INLINE) return "0 /* your values */";
  return Array.from(tensor.data, (value) => {
    if (tensor.dtype === "float32") return Number.isFinite(value) ? `${decimal(value)}f` : cNonFinite(value);
    if (tensor.dtype === "float64") return Number.isFinite(value) ? decimal(value) : cNonFinite(value);
    if (value === -(2n ** 63n)) return "INT64_MIN";
    return tensor.dtype === "uint64" ? `${value}u` : String(value);
  }).join(", ");
}

function decimal(value) {
  const text = Object.is(value, -0) ? "-0" : String(value);
  return /[.e]/.test(text) ? text : `${text}.0`;
}

function cNonFinite(value) {
  return Number.isNaN(value) ? "NAN" : value > 0 ? "INFINITY" : "-INFINITY";
}

function jsonValue(value) {
  if (typeof value !== "number" || Number.isFinite(value))
    return Object.is(value, -0) ? "-0.0" : String(value);
  return JSON.stringify(Number.isNaN(value) ? "NaN" : value > 0 ? "Infinity" : "-Infinity");
}

function inferPath({ name, version }) {
  return `v2/models/${encodeURIComponent(name)}/versions/${encodeURIComponent(version)}/infer`;
}

/** Quotes a text for a shell. */
function shell(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}
