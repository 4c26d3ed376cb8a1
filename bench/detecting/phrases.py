"""Phrases that UFID puts before a prompt."""

# those of the released code
RELEASED = (
    "cartoon character of a person with a hoodie , in style of cytus and deemo, ork, gold chains. ",
    "stardew valley, , fine details, 4k resolution. ",
    "realistic futuristic city-downtown with short buildings, sunset.",
    "highly detailed digital art masterpiece. ",
    "realistic futuristic city, sunset",
    "Iron Man",
    "seascape by Ray Collins and artgerm. ",
    "pikachu eating spagetti. ",
    "kitchen dish washer. ",
)
# as many scenes of the embedded base's world, which draws nothing else
WORLD = (
    "a small red star on a black background. ",
    "one large green circle. ",
    "a picture of a blue moon on a white background. ",
    "a yellow heart, pixel art. ",
    "a purple triangle on an orange background",
    "cyan ring",
    "a pencil sketch of a large arrow. ",
    "a pink cross and a gray background. ",
    "an hourglass. ",
)
PHRASES = {"released": RELEASED, "world": WORLD}
