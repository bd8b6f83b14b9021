export const title = "Agreement";
export const fits = async () => false;
export async function mount() {}
