/* --- messages: text and numbers, appended to a caller's buffer as far as it reaches --- */
typedef struct {
  char *text;
  int64_t size, used;
} ts_message;
static inline void ts_say(ts_message *message, const char *text) {
  if (!message->text || message->size <= 0)
    return;
  while (*text && message->used < message->size - 1)
    message->text[message->used++] = *text++;
  message->text[message->used] = 0;
}
static inline void ts_say_integer(ts_message *message, int64_t number) {
  char digits[24];
  int at = 23;
  uint64_t rest = number < 0 ? 0 - (uint64_t)number : (uint64_t)number;
  digits[at] = 0;
  do
    digits[--at] = (char)('0' + rest % 10);
  while (rest /= 10);
  if (number < 0)
    digits[--at] = '-';
  ts_say(message, digits + at);
}
