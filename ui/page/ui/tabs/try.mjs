export const title = "Try it";
export const fits = async () => false;
export async function mount() {}
