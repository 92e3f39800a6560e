// proto-loader knows no JSON mapping: a google.protobuf.Struct is built and taken apart by hand.
export const toValue = (value) => {
  if (value === null) return { nullValue: 0 };
  if (Array.isArray(value)) return { listValue: { values: value.map(toValue) } };
  if (typeof value === "object") return { structValue: toStruct(value) };
  if (typeof value === "boolean") return { boolValue: value };
  return typeof value === "number" ? { numberValue: value } : { stringValue: value };
};

export const toStruct = (object) => ({
  fields: Object.fromEntries(Object.entries(object).map(([key, value]) => [key, toValue(value)])),
});

const fromValue = (value) => {
  if (value.structValue) return fromStruct(value.structValue);
  if (value.listValue) return (value.listValue.values ?? []).map(fromValue);
  return value.boolValue ?? value.numberValue ?? value.stringValue ?? null;
};

export const fromStruct = (struct) =>
  Object.fromEntries(Object.entries(struct.fields ?? {}).map(([key, value]) => [key, fromValue(value)]));
