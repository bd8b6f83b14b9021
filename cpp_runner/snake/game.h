#ifndef TORCHSHIP_SNAKE_GAME_H
#define TORCHSHIP_SNAKE_GAME_H

/* Snake for many agents: the one implementation, which C++, Python (models/snake/game.py) and
 * WebAssembly share. It is C11 and also C++17, allocates nothing, keeps nothing outside the memory
 * that the caller gives, and calls nothing but memcpy and memset. Games in different memory share
 * nothing; a game is used by one thread at a time.
 *
 * Source: the snake of PufferLib's Ocean (Joseph Suarez, stream "Getting RL models out of Python"),
 * https://github.com/PufferAI/PufferLib; written anew, with rules that leave nothing open, so that
 * a seed and the actions determine every bit of a game.
 *
 * A field has width x height cells inside walls 5 thick, so that the window of 11 x 11 cells around
 * a head never leaves it. A cell is one of eight tiles: 0 empty, 1 food, 2 corpse, 3 wall, 4..7
 * snake; a snake's tile is 4 + (its slot mod 4). Actions: 0 up (y - 1), 1 down (y + 1), 2 left
 * (x - 1), 3 right (x + 1). The window is [y, x], the head at [5, 5].
 *
 * One step, for all snakes at once; "before" is the field as the last step left it:
 *
 * 1. Heading. A snake turns to its action; the action against its heading is treated as going on.
 * 2. Target: the cell ahead of its head.
 * 3. Death. A snake dies if its target was wall or snake before (any segment, tails and its own
 *    too: a tail leaves its cell only in 5), or if another snake has the same target, whatever is
 *    there: all who share a target die, and food there stays.
 * 4. A dead snake's segments, counted from the head as 0: the odd ones become corpse, the even ones
 *    empty. So a snake of one segment leaves nothing.
 * 5. A snake that lives moves its head to its target. If that was food or corpse it has eaten it,
 *    and is one segment longer if it was shorter than `max_length`: its last segment stays.
 *    Otherwise its last segment's cell becomes empty.
 * 6. Births. Each dead slot, in order, gets a new snake of one segment: the field draws v until the
 *    cell v names is empty or corpse; the snake heads to v & 3.
 * 7. Food. For each food eaten, in the order of the slots that ate it, the field draws v until a
 *    cell is empty or corpse, and that becomes food. The first 32 draws name cells of the window
 *    around where the food was; if all fail, further draws name cells of the whole field.
 *
 * A game begins with 6 for all slots on an empty field; then each of `food` is placed anywhere:
 * drawn as in 6. Fields are independent.
 *
 * Why food grows again nearby: scattered over the whole field, it is met by luck more than by
 * skill. A window 11 wide shows 11 new cells a step, a random walk treads on about 0.8, and so a
 * player that went after the nearest food found only 9 to 14 times as much as a random one.
 *
 * Reward: +1 for food, +0.5 for corpse, -1 for death.
 *
 * Random numbers: SplitMix64 (Steele, Lea and Flood 2014) as a function of a counter, in uint64:
 *
 *     mix(z):  z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9
 *              z = (z ^ z >> 27) * 0x94D049BB133111EB
 *              return z ^ z >> 31
 *     key of field f = mix(mix(seed) + f)
 *     the field's n-th draw, n = 1, 2, ...: v = mix(key + n * 0x9E3779B97F4A7C15)
 *     the cell of n that v names, counted row by row from the top left: (v >> 32) * n >> 32
 */

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { SNAKE_EMPTY, SNAKE_FOOD, SNAKE_CORPSE, SNAKE_WALL, SNAKE_BODY, SNAKE_TILES = 8 };
enum { SNAKE_UP, SNAKE_DOWN, SNAKE_LEFT, SNAKE_RIGHT, SNAKE_ACTIONS };
enum {
  SNAKE_REACH = 5, /* cells seen in each direction; also the walls' thickness */
  SNAKE_SIDE = 2 * SNAKE_REACH + 1,
  SNAKE_WINDOW = SNAKE_SIDE * SNAKE_SIDE, /* tiles that an agent sees */
  SNAKE_LARGEST = 32768                   /* the most that each of the rules may be */
};

#define SNAKE_GOLDEN_GAMMA UINT64_C(0x9E3779B97F4A7C15)

/* `fields` games side by side, `snakes` in each. Sizes in cells, without walls. */
struct snake_rules {
  int32_t fields;
  int32_t snakes;
  int32_t width;
  int32_t height;
  int32_t food;
  int32_t max_length; /* segments */
};

/* What an agent has reached since the reset. */
struct snake_score {
  int64_t food;
  int64_t corpses;
  int64_t deaths;
};

/* The games. An agent, field * snakes + slot, outlives its snakes: after a death it gets a new one.
 * There are fields * snakes agents. */
struct snake_game;

/* What snake_check finds. */
enum { SNAKE_PLAYABLE, SNAKE_BAD_SIZE, SNAKE_TOO_CROWDED };

/* SNAKE_BAD_SIZE: one of the rules is not 1 to SNAKE_LARGEST. SNAKE_TOO_CROWDED: snakes and food
 * may fill more than half of a field, where a draw would not find a place soon. */
int32_t snake_check(const struct snake_rules* rules);

/* Bytes that the games need; 0 if snake_check refuses the rules, or a size_t cannot hold the
 * number. */
size_t snake_size(const struct snake_rules* rules);

/* Lays out the games in `memory`: snake_size bytes, aligned to 8, which stay the caller's and must
 * not be moved. The rules must be playable. Begins the games of seed 0. */
struct snake_game* snake_init(void* memory, const struct snake_rules* rules);

/* Begins new games; the same seed begins the same games. */
void snake_reset(struct snake_game* game, uint64_t seed);

/* Plays one step of all agents, `actions` holding one action each, 0..3. Returns -1, or the first
 * agent whose action is none: then nothing is played. */
int32_t snake_step(struct snake_game* game, const int64_t* actions);

/* Writes what every agent sees into `windows`, [agents, 11, 11] tiles; of an agent that died in the
 * last step, what its new snake sees. */
void snake_observe(const struct snake_game* game, uint8_t* windows);

/* The cell of an agent's segment, counted from the head as 0: an index into the tiles of its
 * field. `segment` is below the snake's length. */
int32_t snake_segment(const struct snake_game* game, int32_t agent, int32_t segment);

/* The arrays of the games, in their memory. First what the last step left. */
const float* snake_rewards(const struct snake_game* game); /* [agents] */
const uint8_t* snake_died(const struct snake_game* game);  /* [agents], 0 or 1 */

/* Then what a game goes on from. A caller may save these and write them back; snake_fits says
 * whether what was written is safe to play. Cells are counted row by row over all fields and their
 * walls. */
uint8_t* snake_tiles(struct snake_game* game);    /* [fields, height + 10, width + 10] */
int64_t* snake_bodies(struct snake_game* game);   /* [agents, max_length], a ring of cells each */
int64_t* snake_places(struct snake_game* game);   /* [agents], the head's place in the ring */
int64_t* snake_lengths(struct snake_game* game);  /* [agents], segments */
int64_t* snake_headings(struct snake_game* game); /* [agents], 0..3 */
uint64_t* snake_keys(struct snake_game* game);    /* [fields], of the random numbers */
uint64_t* snake_draws(struct snake_game* game);   /* [fields], how many were drawn */
struct snake_score* snake_scores(struct snake_game* game); /* [agents] */

/* 1 if the arrays are such that a step stays inside them: tiles that there are, whole walls, and
 * snakes inside their fields. Otherwise 0. */
int32_t snake_fits(const struct snake_game* game);

/* SplitMix64's output function. */
uint64_t snake_mix(uint64_t z);

#ifdef __cplusplus
}
#endif

#endif
