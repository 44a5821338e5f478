/** Lists that the server sends in pages. */

const PAGE_SIZE = 500;

/** The fields that say which page is wanted. */
export interface PageRequest {
  readonly pageSize: number;
  readonly pageToken: string;
}

/** Read page after page, until the last one or until there are `limit` items. `read`: asks for one page. */
export async function allOf<Page extends { readonly nextPageToken: string }, Item>(
  read: (wanted: PageRequest) => Promise<Page>,
  itemsOf: (page: Page) => readonly Item[],
  limit = Number.POSITIVE_INFINITY,
): Promise<Item[]> {
  const found: Item[] = [];
  let pageToken = '';
  do {
    const page = await read({ pageSize: Math.min(limit - found.length, PAGE_SIZE), pageToken });
    found.push(...itemsOf(page));
    pageToken = page.nextPageToken;
  } while (pageToken && found.length < limit);
  return found;
}
