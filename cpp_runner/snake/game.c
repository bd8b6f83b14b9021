#include "snake/game.h"

#include <string.h>

enum { COLOURS = SNAKE_TILES - SNAKE_BODY };
enum { TRIES = 32 }; /* draws near where food was, before one anywhere */

static const float FOOD_REWARD = 1.0F;
static const float CORPSE_REWARD = 0.5F;
static const float DEATH_REWARD = -1.0F;

struct snake_game {
  struct snake_rules rules;
  int64_t agents;
  int64_t stride;               /* cells of a row with its walls */
  int64_t cells;                /* of a field with its walls */
  int64_t delta[SNAKE_ACTIONS]; /* to the cell in each direction */
  uint8_t* tiles;               /* [fields, cells] */
  uint8_t* claims;              /* [cells], how many snakes want a cell; all 0 between fields */
  int64_t* bodies;              /* [agents, max_length] */
  int64_t* places;              /* [agents], the head's in its ring */
  int64_t* lengths;             /* [agents] */
  int64_t* headings;            /* [agents] */
  int64_t* targets;             /* [agents], where the last step led */
  uint8_t* found;               /* [agents], the tile that was there, if alive */
  uint8_t* died;                /* [agents] */
  float* rewards;               /* [agents] */
  struct snake_score* scores;   /* [agents] */
  uint64_t* keys;               /* [fields] */
  uint64_t* draws;              /* [fields] */
};

/* Compilers replace such a loop by a call of memset, and WebAssembly has no library to call. */
#ifdef __wasm__
__attribute__((no_builtin("memset")))
#endif
static void
fill(void* memory, uint8_t value, int64_t count) {
  uint8_t* bytes = (uint8_t*)memory;
  for (int64_t i = 0; i < count; ++i) bytes[i] = value;
}

/* Takes the next `count` elements out of `memory`, or only counts them if that is NULL. */
static void* take(uint8_t* memory, uint64_t* used, int64_t count, size_t width) {
  void* start = memory == NULL ? NULL : memory + *used;
  *used += ((uint64_t)count * width + 7) / 8 * 8;
  return start;
}

/* Lays out a game and its arrays, in this order, and returns how many bytes they need. */
static uint64_t lay_out(struct snake_game* game, const struct snake_rules* rules, uint8_t* memory) {
  uint64_t used = 0;
  (void)take(memory, &used, 1, sizeof *game);
  game->rules = *rules;
  const int64_t fields = rules->fields;
  const int64_t agents = game->agents = fields * rules->snakes;
  game->stride = rules->width + 2 * SNAKE_REACH;
  game->cells = game->stride * (rules->height + 2 * SNAKE_REACH);
  game->delta[SNAKE_UP] = -game->stride;
  game->delta[SNAKE_DOWN] = game->stride;
  game->delta[SNAKE_LEFT] = -1;
  game->delta[SNAKE_RIGHT] = 1;
  game->tiles = (uint8_t*)take(memory, &used, fields * game->cells, 1);
  game->claims = (uint8_t*)take(memory, &used, game->cells, 1);
  game->bodies = (int64_t*)take(memory, &used, agents * rules->max_length, sizeof(int64_t));
  game->places = (int64_t*)take(memory, &used, agents, sizeof(int64_t));
  game->lengths = (int64_t*)take(memory, &used, agents, sizeof(int64_t));
  game->headings = (int64_t*)take(memory, &used, agents, sizeof(int64_t));
  game->targets = (int64_t*)take(memory, &used, agents, sizeof(int64_t));
  game->found = (uint8_t*)take(memory, &used, agents, 1);
  game->died = (uint8_t*)take(memory, &used, agents, 1);
  game->rewards = (float*)take(memory, &used, agents, sizeof(float));
  game->scores = (struct snake_score*)take(memory, &used, agents, sizeof(struct snake_score));
  game->keys = (uint64_t*)take(memory, &used, fields, sizeof(uint64_t));
  game->draws = (uint64_t*)take(memory, &used, fields, sizeof(uint64_t));
  return used;
}

int32_t snake_check(const struct snake_rules* rules) {
  const int32_t sizes[] = {rules->fields, rules->snakes, rules->width,
                           rules->height, rules->food,   rules->max_length};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; ++i) {
    if (sizes[i] < 1 || sizes[i] > SNAKE_LARGEST) return SNAKE_BAD_SIZE;
  }
  const int64_t needed = 2 * ((int64_t)rules->snakes * rules->max_length + rules->food);
  return needed > (int64_t)rules->width * rules->height ? SNAKE_TOO_CROWDED : SNAKE_PLAYABLE;
}

size_t snake_size(const struct snake_rules* rules) {
  if (snake_check(rules) != SNAKE_PLAYABLE) return 0;
  struct snake_game game;
  const uint64_t needed = lay_out(&game, rules, NULL);
  const size_t size = (size_t)needed;
  return size == needed ? size : 0;
}

uint64_t snake_mix(uint64_t z) {
  z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
  z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
  return z ^ (z >> 31);
}

static uint64_t draw(struct snake_game* game, int64_t field) {
  return snake_mix(game->keys[field] + ++game->draws[field] * SNAKE_GOLDEN_GAMMA);
}

static int64_t below(int64_t count, uint64_t drawn) {
  return (int64_t)((drawn >> 32) * (uint64_t)count >> 32);
}

/* The cell of the whole field that a draw names. */
static int64_t anywhere(const struct snake_game* game, int64_t field, uint64_t drawn) {
  const int64_t width = game->rules.width;
  const int64_t number = below(width * game->rules.height, drawn);
  const int64_t y = number / width + SNAKE_REACH;
  const int64_t x = number % width + SNAKE_REACH;
  return field * game->cells + y * game->stride + x;
}

/* The cell that a draw names in the window around `cell`. Where a window reaches out of the field,
 * there is wall. */
static int64_t nearby(const struct snake_game* game, int64_t cell, uint64_t drawn) {
  const int64_t number = below(SNAKE_WINDOW, drawn);
  const int64_t y = number / SNAKE_SIDE - SNAKE_REACH;
  const int64_t x = number % SNAKE_SIDE - SNAKE_REACH;
  return cell + y * game->stride + x;
}

static int is_free(const struct snake_game* game, int64_t cell) {
  return game->tiles[cell] == SNAKE_EMPTY || game->tiles[cell] == SNAKE_CORPSE;
}

static int64_t* body_of(const struct snake_game* game, int64_t agent) {
  return game->bodies + agent * game->rules.max_length;
}

/* The cell of a snake's segment, counted from the head as 0. */
static int64_t segment_of(const struct snake_game* game, int64_t agent, int64_t from_head) {
  const int64_t place = game->places[agent] - from_head;
  return body_of(game, agent)[place < 0 ? place + game->rules.max_length : place];
}

static void put_head(struct snake_game* game, int64_t agent, int64_t place, int64_t cell) {
  game->places[agent] = place;
  body_of(game, agent)[place] = cell;
  game->tiles[cell] = (uint8_t)(SNAKE_BODY + agent % game->rules.snakes % COLOURS);
}

/* Places a new snake of one segment. */
static void add_snake(struct snake_game* game, int64_t field, int64_t agent) {
  uint64_t drawn = 0;
  int64_t cell = 0;
  do {
    drawn = draw(game, field);
    cell = anywhere(game, field, drawn);
  } while (!is_free(game, cell));
  game->headings[agent] = (int64_t)(drawn & 3);
  game->lengths[agent] = 1;
  put_head(game, agent, 0, cell);
}

/* Places new food: anywhere, after so many draws of cells within sight of where some was eaten. */
static void add_food(struct snake_game* game, int64_t field, int64_t eaten, int32_t tries) {
  for (;;) {
    const uint64_t drawn = draw(game, field);
    const int64_t cell = tries-- > 0 ? nearby(game, eaten, drawn) : anywhere(game, field, drawn);
    if (!is_free(game, cell)) continue;
    game->tiles[cell] = SNAKE_FOOD;
    return;
  }
}

void snake_reset(struct snake_game* game, uint64_t seed) {
  const struct snake_rules* rules = &game->rules;
  fill(game->tiles, SNAKE_WALL, rules->fields * game->cells);
  fill(game->died, 0, game->agents);
  fill(game->rewards, 0, game->agents * (int64_t)sizeof *game->rewards);
  fill(game->scores, 0, game->agents * (int64_t)sizeof *game->scores);
  for (int64_t field = 0; field < rules->fields; ++field) {
    game->keys[field] = snake_mix(snake_mix(seed) + (uint64_t)field);
    game->draws[field] = 0;
    uint8_t* tiles = game->tiles + field * game->cells;
    for (int64_t y = 0; y < rules->height; ++y) {
      fill(tiles + (y + SNAKE_REACH) * game->stride + SNAKE_REACH, SNAKE_EMPTY, rules->width);
    }
    for (int64_t slot = 0; slot < rules->snakes; ++slot) {
      add_snake(game, field, field * rules->snakes + slot);
    }
    for (int32_t i = 0; i < rules->food; ++i) add_food(game, field, 0, 0);
  }
}

struct snake_game* snake_init(void* memory, const struct snake_rules* rules) {
  struct snake_game* game = (struct snake_game*)memory;
  (void)lay_out(game, rules, (uint8_t*)memory);
  fill(game->claims, 0, game->cells);
  fill(game->bodies, 0, game->agents * rules->max_length * (int64_t)sizeof *game->bodies);
  snake_reset(game, 0);
  return game;
}

/* Turns the snakes of a field, and finds each one's target, what is there, and whether it dies. */
static void find_deaths(struct snake_game* game, int64_t field, const int64_t* actions) {
  const int64_t first = field * game->rules.snakes;
  const int64_t last = first + game->rules.snakes;
  uint8_t* claims = game->claims;
  const int64_t start = field * game->cells;
  for (int64_t agent = first; agent < last; ++agent) {
    /* Up and down, and left and right, are one bit apart: against the heading is going on. */
    if (actions[agent] != (game->headings[agent] ^ 1)) game->headings[agent] = actions[agent];
    const int64_t target = segment_of(game, agent, 0) + game->delta[game->headings[agent]];
    game->targets[agent] = target;
    uint8_t* claim = claims + (target - start);
    *claim = (uint8_t)(*claim + 1); /* at most 4: a cell has four neighbours */
  }
  for (int64_t agent = first; agent < last; ++agent) {
    const int64_t target = game->targets[agent];
    const uint8_t ahead = game->tiles[target];
    const int dies = ahead >= SNAKE_WALL || claims[target - start] > 1;
    game->died[agent] = (uint8_t)dies;
    game->found[agent] = dies ? (uint8_t)SNAKE_EMPTY : ahead;
  }
  for (int64_t agent = first; agent < last; ++agent) claims[game->targets[agent] - start] = 0;
}

static void remove_snake(struct snake_game* game, int64_t agent) {
  for (int64_t i = 0; i < game->lengths[agent]; ++i) {
    game->tiles[segment_of(game, agent, i)] = i % 2 == 1 ? SNAKE_CORPSE : SNAKE_EMPTY;
  }
}

static void release_tail(struct snake_game* game, int64_t agent) {
  const int64_t length = game->lengths[agent];
  if (game->found[agent] != SNAKE_EMPTY && length < game->rules.max_length) {
    game->lengths[agent] =
        length + 1; /* the last segment stays, and the head to come is one more */
  } else {
    game->tiles[segment_of(game, agent, length - 1)] = SNAKE_EMPTY;
  }
}

static void move_head(struct snake_game* game, int64_t agent) {
  const int64_t next = game->places[agent] + 1;
  put_head(game, agent, next == game->rules.max_length ? 0 : next, game->targets[agent]);
}

static void score(struct snake_game* game, int64_t agent) {
  const int ate = game->found[agent] == SNAKE_FOOD;
  const int scavenged = game->found[agent] == SNAKE_CORPSE;
  const int died = game->died[agent];
  game->rewards[agent] =
      ate ? FOOD_REWARD : (scavenged ? CORPSE_REWARD : (died ? DEATH_REWARD : 0.0F));
  game->scores[agent].food += ate;
  game->scores[agent].corpses += scavenged;
  game->scores[agent].deaths += died;
}

static void step_field(struct snake_game* game, int64_t field, const int64_t* actions) {
  const int64_t first = field * game->rules.snakes;
  const int64_t last = first + game->rules.snakes;
  find_deaths(game, field, actions);
  for (int64_t agent = first; agent < last; ++agent) {
    if (game->died[agent]) remove_snake(game, agent);
  }
  /* All tails before all heads: they leave their cells together. */
  for (int64_t agent = first; agent < last; ++agent) {
    if (!game->died[agent]) release_tail(game, agent);
  }
  for (int64_t agent = first; agent < last; ++agent) {
    if (!game->died[agent]) move_head(game, agent);
  }
  for (int64_t agent = first; agent < last; ++agent) {
    if (game->died[agent]) add_snake(game, field, agent);
  }
  for (int64_t agent = first; agent < last; ++agent) {
    if (game->found[agent] == SNAKE_FOOD) add_food(game, field, game->targets[agent], TRIES);
    score(game, agent);
  }
}

int32_t snake_step(struct snake_game* game, const int64_t* actions) {
  for (int64_t agent = 0; agent < game->agents; ++agent) {
    if (actions[agent] < 0 || actions[agent] >= SNAKE_ACTIONS) return (int32_t)agent;
  }
  for (int64_t field = 0; field < game->rules.fields; ++field) step_field(game, field, actions);
  return -1;
}

void snake_observe(const struct snake_game* game, uint8_t* windows) {
  for (int64_t agent = 0; agent < game->agents; ++agent) {
    const int64_t head = segment_of(game, agent, 0);
    const uint8_t* row = game->tiles + head - SNAKE_REACH * game->stride - SNAKE_REACH;
    for (int y = 0; y < SNAKE_SIDE; ++y) {
      memcpy(windows, row, SNAKE_SIDE);
      windows += SNAKE_SIDE;
      row += game->stride;
    }
  }
}

int32_t snake_segment(const struct snake_game* game, int32_t agent, int32_t segment) {
  return (int32_t)(segment_of(game, agent, segment) % game->cells);
}

/* Whether a cell, counted in its own field, lies inside the walls. */
static int is_inside(const struct snake_game* game, int64_t cell) {
  const int64_t y = cell / game->stride - SNAKE_REACH;
  const int64_t x = cell % game->stride - SNAKE_REACH;
  return y >= 0 && y < game->rules.height && x >= 0 && x < game->rules.width;
}

static int snake_is_inside(const struct snake_game* game, int64_t agent) {
  const int64_t head = game->places[agent];
  const int64_t length = game->lengths[agent];
  const int64_t heading = game->headings[agent];
  const int64_t longest = game->rules.max_length;
  if (head < 0 || head >= longest || length < 1 || length > longest) return 0;
  if (heading < 0 || heading >= SNAKE_ACTIONS) return 0;
  const int64_t start = agent / game->rules.snakes * game->cells;
  for (int64_t i = 0; i < length; ++i) {
    const int64_t cell = segment_of(game, agent, i);
    if (cell < start || cell - start >= game->cells) return 0;
    if (!is_inside(game, cell - start)) return 0;
  }
  return 1;
}

int32_t snake_fits(const struct snake_game* game) {
  for (int64_t cell = 0; cell < game->rules.fields * game->cells; ++cell) {
    const uint8_t tile = game->tiles[cell];
    if (tile >= SNAKE_TILES) return 0;
    if (tile != SNAKE_WALL && !is_inside(game, cell % game->cells)) return 0;
  }
  for (int64_t agent = 0; agent < game->agents; ++agent) {
    if (!snake_is_inside(game, agent)) return 0;
  }
  return 1;
}

const float* snake_rewards(const struct snake_game* game) {
  return game->rewards;
}

const uint8_t* snake_died(const struct snake_game* game) {
  return game->died;
}

uint8_t* snake_tiles(struct snake_game* game) {
  return game->tiles;
}

int64_t* snake_bodies(struct snake_game* game) {
  return game->bodies;
}

int64_t* snake_places(struct snake_game* game) {
  return game->places;
}

int64_t* snake_lengths(struct snake_game* game) {
  return game->lengths;
}

int64_t* snake_headings(struct snake_game* game) {
  return game->headings;
}

uint64_t* snake_keys(struct snake_game* game) {
  return game->keys;
}

uint64_t* snake_draws(struct snake_game* game) {
  return game->draws;
}

struct snake_score* snake_scores(struct snake_game* game) {
  return game->scores;
}
